"""The card of an exported model: what was trained on what, what came out, how to load it, its limits."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from penchant import families
from penchant.evaluation.intervals import Estimate
from penchant.evaluation.sampling import sampler_of
from penchant.reports.contents import RunContents, read_run_folder
from penchant.reports.html import drift_rows, win_rate_rows
from penchant.reports.summary import change_text, effect_text, number, outcome, percent, percent_range
from penchant.runs.export import CARD, Exported
from penchant.runs.folder import RunFolder
from penchant.runs.forms import Form

_ACTIVE: Final = re.compile(r"([\\`*_\[\]|~$#])")
"""Signs by which plain text would turn into markup."""


def model_card(folder: RunFolder, exported: Exported) -> str:
    """Text of README.md for the folder of an export; everything that is not our own words is escaped.

    Args:
        folder: The run.
        exported: What was written.

    Raises:
        DataError: A part of the run folder cannot be read.
    """
    contents = read_run_folder(folder.path)
    manifest = contents.manifest
    assert manifest is not None, "the export has read it"
    results = contents.results if manifest["complete"] else None  # else they are of other weights
    rows = [] if results is None else win_rate_rows(results)
    environment = Environment(
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else plain(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=percent, percent_range=percent_range, number=number, estimate=_estimate
    )
    text = files("penchant.reports").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        front_matter=Markup(yaml.safe_dump(front_matter(contents, exported), sort_keys=False)),
        title=exported.name,
        what=_what(contents, exported),
        outcome=None if results is None else outcome(results),
        usage=Markup(usage(contents, exported)),
        advice=_advice(exported, adapts_text=_adapts_text(contents.run)),
        settings=list(_settings(contents.run, manifest, exported)),
        results=results,
        effect=None if results is None else effect_text(results.effect_size),
        change=None if results is None else change_text(results.effect_size),
        shares=[] if results is None else [
            (name, pair, digits) for name, pair, digits in (
                ("share of preferred images", results.preferred_share, 0),
                ("caption match, points", results.caption_match, 1),
            ) if pair is not None
        ],
        others=rows[1:],
        drift=[] if results is None else drift_rows(results.drift),
        limits=list(_limits(contents, exported, evaluated=results is not None)),
        provenance=list(_provenance(manifest, exported)),
    )  # fmt: skip


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ACTIVE.sub(r"\\\1", text)


def front_matter(contents: RunContents, exported: Exported) -> dict[str, Any]:
    """Fields that the hub reads; what is not known is left out."""
    is_pipeline = exported.form is Form.PIPELINE
    found: dict[str, Any] = {}
    if exported.base is not None:
        found["base_model"] = exported.base
        found["base_model_relation"] = "finetune" if is_pipeline else "adapter"
    found["library_name"] = "peft" if exported.form is Form.PEFT else "diffusers"
    if license_name := _license(exported.base_folder):
        found["license"] = license_name
    refines = families.noise_span(exported.base_folder) < 1
    found["pipeline_tag"] = "image-to-image" if refines else "text-to-image"
    method = contents.run.get("method")
    found["tags"] = ["penchant", "preference-alignment", *([] if is_pipeline else ["lora"]), str(method)]
    return found


def usage(contents: RunContents, exported: Exported) -> str:
    """Python that loads the export and draws an image, one that another model begins if this one refines."""
    model, evaluation = str(contents.run["model"]), contents.run["evaluation"]
    name, part = json.dumps(exported.name), exported.part
    lines = ["import torch", "from diffusers import DiffusionPipeline", ""]
    dtype = f"dtype=torch.{evaluation['precision']}"  # parts may be stored in different types
    family = families.load_folder(exported.base_folder, part=families.Part.NOTHING)
    assert isinstance(family, families.PipelineFamily)
    if exported.form is Form.PIPELINE:
        lines.append(f"pipeline = DiffusionPipeline.from_pretrained({name}, {dtype})")
    elif (single := families.single_file(model)) is not None:
        kind, (file, config) = type(family.pipeline).__name__, single
        lines[1] = f"from diffusers import {kind}"
        of = f"config={_base_in_code(config, families.hub_repository(config))}, " if config else ""
        lines.append(f"pipeline = {kind}.from_single_file({_base_in_code(file, None)}, {of}{dtype})")
    else:
        if model in families.SHIPPED:
            lines.insert(2, "from penchant.families import SHIPPED")
        base = _base_in_code(model, exported.base)
        lines.append(f"pipeline = DiffusionPipeline.from_pretrained({base}, {dtype})")
    match exported.form:
        case Form.DIFFUSERS:
            lines.append(f"pipeline.load_lora_weights({name})")
        case Form.KOHYA:
            lines.append(f"pipeline.load_lora_weights({name}, weight_name={json.dumps(exported.weights)})")
        case Form.PEFT:
            lines.insert(2, "from peft import PeftModel")
            lines.append(
                f"pipeline.{part} = PeftModel.from_pretrained(pipeline.{part}, {name}).merge_and_unload()"
            )
    told = _told(contents, family)
    span, size = family.noise_span, {name: told[name] for name in ("height", "width")}
    if span < 1:
        first = str(evaluation.get("first_model") or "your base model")
        place = _base_in_code(first, families.hub_repository(first))
        lines.append(f"first = DiffusionPipeline.from_pretrained({place}, {dtype})")
        lines += _call(
            "begun = first", told | {"denoising_end": 1 - span, "output_type": "latent"}, ".images"
        )
        rest = {name: value for name, value in told.items() if name not in size}
        lines += _call("image = pipeline", rest | {"denoising_start": 1 - span}, ".images[0]", image="begun")
    elif len(family.sample_shape) == 4:  # a video, here of one frame
        lines += _call("image = pipeline", told | {"output_type": "pil"}, ".frames[0][0]")
    else:
        lines += _call("image = pipeline", told, ".images[0]")
    return "\n".join(lines)


def _told(contents: RunContents, family: families.PipelineFamily) -> dict[str, Any]:
    """What the pipeline is told beside the prompt, as in the evaluation of the run."""
    evaluation = contents.run["evaluation"]
    sampler = sampler_of(
        family,
        num_steps=evaluation["num_steps"],
        guidance=evaluation["guidance"],
        eta=0.0,
        batch_size=1,
        size=contents.run["data"]["size"],
    )
    takes_eta = evaluation["eta"] and "eta" in inspect.signature(family.pipeline.__call__).parameters
    return {
        "num_inference_steps": sampler.num_steps,
        "guidance_scale": sampler.guidance,
        **({"eta": evaluation["eta"]} if takes_eta else {}),
        "height": sampler.size,
        "width": sampler.size,
        **sampler.options,
    }


def _call(start: str, told: Mapping[str, Any], end: str, **names: str) -> list[str]:
    """Lines of a call with a prompt, with values and with names of the code."""
    values = {name: _in_code(value) for name, value in told.items()} | names
    return [f"{start}(", '    "your prompt",', *(f"    {n}={v}," for n, v in values.items()), f"){end}"]


def _in_code(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _base_in_code(model: str, on_hub: str | None) -> str:
    if model in families.SHIPPED:
        return f"SHIPPED[{json.dumps(model)}]"
    if on_hub is None:
        return json.dumps(f"path/to/{_model_name(model)}")
    revision = model.partition("@")[2]
    return json.dumps(on_hub) + (f", revision={json.dumps(revision)}" if revision else "")


def _what(contents: RunContents, exported: Exported) -> str:
    kind = "A copy of {}, its weights changed" if exported.form is Form.PIPELINE else "A LoRA for {}, trained"
    base = exported.base or f"the model {_model_name(contents.run['model'])}"
    data = Path(contents.run["data"]["path"]).name
    return f"{kind.format(base)} by {contents.run['method']} towards what the preferences in {data} prefer."


def _advice(exported: Exported, *, adapts_text: bool) -> str:
    match exported.form:
        case Form.DIFFUSERS:
            return "The scale alpha / rank is part of the weights, so every reader applies the same update."
        case Form.PEFT:
            return "The update is folded into the network there; leave merge_and_unload out to switch it."
        case Form.KOHYA:
            node = "LoraLoader" if adapts_text else "LoraLoaderModelOnly"
            return f"In ComfyUI, put {exported.weights} into models/loras and load it with the node {node}."
        case Form.PIPELINE:
            return "It is a plain pipeline: no adapter is left in it."


def _settings(
    run: Mapping[str, Any], manifest: Mapping[str, Any], exported: Exported
) -> Iterator[tuple[str, str]]:
    training, method = run["training"], manifest["method"]
    yield "base model", _model_name(str(run["model"]))
    yield "data", Path(run["data"]["path"]).name  # the folders above are nobody's business
    for name in ("size", "flip", "prompt_dropout"):
        if run["data"][name] is not None:
            yield name.replace("_", " "), str(run["data"][name])
    counts = {name: value for name, value in manifest["data"].items() if name != "name"}
    yield from ((name, f"{count:,}") for name, count in counts.items())
    yield "method", f"{run['method']} ({method['source']})"
    for factor in ("ratio", "objective", "weight"):
        yield factor, _slot(method[factor])
    for term in method["terms"]:
        yield "term", _slot(term)
    text = " and the text encoder, where they have such layers" if _adapts_text(run) else ""
    yield "trained", f"{_trained(training)} of the {exported.part}{text}"
    yield "steps", f"{exported.step:,}"
    for name in ("batch_size", "learning_rate", "warmup_steps", "schedule", "optimizer", "precision", "ema"):
        if training[name] is not None:
            yield name.replace("_", " "), str(training[name])
    yield "seed", str(run["seed"])


def _adapts_text(run: Mapping[str, Any]) -> bool:
    return run["training"]["lora"].get("text_encoder", False)  # older runs have no such option


def _trained(training: Mapping[str, Any]) -> str:
    lora = training["lora"]
    if training["mode"] == "full":
        return "every weight"
    if lora["start_from"] is not None:
        return f"a LoRA, from {Path(lora['start_from']).name} on,"
    layers = ", ".join(lora["targets"] or ["the family's default layers"])
    return f"a LoRA, rank {lora['rank']}, alpha {lora['alpha'] or lora['rank']}, on {layers}"


def _limits(contents: RunContents, exported: Exported, *, evaluated: bool) -> Iterator[str]:
    steps = contents.run["training"]["steps"]
    if exported.step < steps:
        yield f"The run has not finished: these are the weights after step {exported.step} of {steps}."
    if evaluated:
        yield "A score judged the images, on these prompts and settings alone; people may judge otherwise."
    else:
        yield "Nobody has measured whether it is better than its base model."
    yield "What the base model does badly or should not do, this one may do too; nothing tested its safety."
    yield "It has learned the preferences of those who made the data, and what else their choices carry."
    if _license(exported.base_folder) is None:
        yield "The licence of the base model is not known here; it applies to this one too."
    for warning in contents.warnings:
        yield f"Training warned: {warning}"


def _provenance(manifest: Mapping[str, Any], exported: Exported) -> Iterator[tuple[str, str]]:
    yield "base model, sha256", manifest["model_hash"]
    yield "data, sha256", manifest["data_hash"]
    for name, digest in exported.hashes.items():
        if name.endswith(".safetensors"):
            yield f"{name}, sha256", digest
    yield "Penchant", " ".join(manifest[key] for key in ("penchant", "commit") if manifest[key])
    versions = manifest["versions"].items()
    yield "made with", ", ".join(f"{name} {version}" for name, version in versions if name != "platform")
    if "finished" in manifest:
        yield "finished", f"{manifest['finished']}, after {manifest['training_s']:,.0f} s of training"


def _slot(slot: Mapping[str, Any]) -> str:
    options = [f"{name} {value}" for name, value in slot.items() if name != "kind"]
    return ": ".join(part for part in (str(slot["kind"]), ", ".join(options)) if part)


def _estimate(estimate: Estimate, digits: int) -> str:
    """A share in percent, or with digits a number, with its interval."""
    if digits == 0:
        return f"{percent(estimate.value)} ({percent_range(estimate)})"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _model_name(model: str) -> str:
    """As on the hub, or the last part of a path."""
    return model if families.hub_repository(model) else Path(model).name


def _license(base: Path) -> str | None:
    """Licence that the base model's own card names."""
    try:
        _, head, _ = (base / CARD).read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(head)["license"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    return found if isinstance(found, str) else None
