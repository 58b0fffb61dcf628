"""The card of an export: numbers beside each other, code that runs, user text that stays text."""

import ast
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from tests import small

from penchant import families, hub, methods
from penchant.hub import model_hash
from penchant.reports.model_card import model_card, plain
from penchant.runs.export import export
from penchant.runs.forms import Form
from penchant.runs.manifest import manifest
from penchant.training.adapters import add_lora, save_lora

HOSTILE = "a|b <script>alert(1)</script> [x](http:y) *bold* `code`\n# Title & __more__"


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    family = families.load(str(tiny_model))
    add_lora(family.network, rank=2, alpha=2, targets=["to_q"], seed=0)
    save_lora(family, tmp_path_factory.mktemp("adapter") / "adapter")
    return tmp_path_factory.getbasetemp() / "adapter0" / "adapter"


@pytest.fixture
def run(tiny_model, adapter, finished_run, tmp_path):
    """Writes the folder of a run that was evaluated, with changes to its run file and manifest."""

    def build(*, evaluated=True, model=tiny_model, complete=True, warnings=(), **changes):
        raw = small.run_options(model, Path("/home/me/secret/pairs.parquet"), tmp_path / "run", changes)
        known = manifest(
            methods.catalog.get("diffusion-dpo"), seed=0, data_hash="ab" * 32,
            model_hash=model_hash(tiny_model), started=datetime.now(UTC),
        )  # fmt: skip
        known |= {"data": {"training groups": 1460}, "finished": "2026-11-22T10:00:00", "training_s": 61.5}
        folder = small.untrained(raw, **known, complete=complete, warnings=list(warnings))
        shutil.copytree(adapter, folder.adapter)
        if evaluated:
            shutil.copy(finished_run / "results.json", folder.results)
        return folder

    return build


def card_of(folder, to, form=Form.DIFFUSERS, **options):
    path = export(folder, form=form, to=to, card=model_card, **options) / "README.md"
    text = path.read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def code_of(body):
    (code,) = re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
    ast.parse(code)
    return code


def cells(body):
    """Number of cells of each table line, escaped bars aside, table by table."""
    tables = re.findall(r"(?:^\|.*\n)+", body, flags=re.MULTILINE)
    return [{len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()} for table in tables]


def test_it_says_what_was_trained_on_what_and_what_came_out(run, tmp_path):
    head, body = card_of(run(warnings=["the margin is saturated"]), tmp_path / "my-lora")
    assert head == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["penchant", "preference-alignment", "lora", "diffusion-dpo"],
    }
    assert body.startswith(
        "\n# my-lora\n\nA LoRA for the model tiny, trained by diffusion-dpo towards what the"
    )
    for line in (
        "| data | pairs.parquet |",
        "| training groups | 1,460 |",
        "| method | diffusion-dpo (Wallace et al. 2023, arXiv:2311.12908, eq. 14) |",
        "| ratio | denoising: reduction mean, scale 0.5, shared\\_noise True |",
        "| trained | a LoRA, rank 2, alpha 2, on the family's default layers of the unet |",
        "| steps | 2 |",
        "- Training warned: the margin is saturated",
        f"| data, sha256 | {'ab' * 32} |",
    ):
        assert f"\n{line}\n" in body
    assert re.search(r"\| win-rate, judged by style: fluent \| \| \| \S+% \(\S+ to \S+%\) \|", body)
    assert re.search(r"\| effect size d_z \| \| \| \S+ \|", body)
    assert re.search(r"\| share of preferred images \| \S+% \(.*%\) \| \S+% \(.*%\) \| \|", body)
    assert re.search(r"\| caption match, points \| \d+\.\d \(.*\) \| \d+\.\d \(.*\) \| \|", body)
    assert re.search(r"\n- \*\*over-optimisation: colour entropy\*\*: .*\n", body)
    assert re.search(r"\n\| colour entropy .*\| flagged \|\n", body)
    assert "/home" not in body and "secret" not in body
    assert all(len(widths) == 1 for widths in cells(body)) and len(cells(body)) == 4


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (Form.DIFFUSERS, 'pipeline.load_lora_weights("it")'),
        (Form.KOHYA, 'pipeline.load_lora_weights("it", weight_name="it.safetensors")'),
        (Form.PEFT, 'pipeline.unet = PeftModel.from_pretrained(pipeline.unet, "it").merge_and_unload()'),
        (Form.PIPELINE, 'pipeline = DiffusionPipeline.from_pretrained("it", dtype=torch.float32)'),
    ],
)
def test_each_form_is_loaded_in_a_few_lines(run, tmp_path, form, line):
    head, body = card_of(run(evaluated=False), tmp_path / "it", form)
    assert line in code_of(body).splitlines()
    assert ("lora" in head["tags"]) is (form is not Form.PIPELINE)
    assert head["library_name"] == ("peft" if form is Form.PEFT else "diffusers")
    assert "It has not been evaluated." in body and "Nobody has measured whether it is better" in body


def test_text_of_the_user_stays_text(run, tmp_path):
    hostile = {"data.path": f"/data/{HOSTILE.replace('/', '')}", "training.lora": {"targets": ["to_q"]}}
    folder = run(**hostile, warnings=[HOSTILE])
    head, body = card_of(folder, tmp_path / "it", name=HOSTILE)
    code_of(body)
    for sign in ("<script", "\n# Title", "[x", " *bold*", " `code`"):
        assert sign not in body.replace(code_of(body), "").replace("\\[", "")
    assert all(len(widths) == 1 for widths in cells(body))
    assert plain("a\n\nb|c") == "a b\\|c" and head["tags"][0] == "penchant"


def test_results_of_other_weights_are_not_shown(run, tmp_path):
    folder = run(complete=False)
    tensors = small.in_training(small.adapter(folder.path)[0])
    small.write_checkpoint(folder, 1, weights="average", **tensors)
    _, body = card_of(folder, tmp_path / "it")
    assert "win-rate" not in body and "It has not been evaluated." in body
    assert "- The run has not finished: these are the weights after step 1 of 2.\n" in body
    assert "| steps | 1 |" in body


def test_a_model_of_the_hub_is_named_and_its_licence_told(run, tiny_model, tmp_path, monkeypatch):
    base = shutil.copytree(tiny_model, tmp_path / "cache")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n", encoding="utf-8")
    monkeypatch.setattr(hub, "download", lambda model, where, **patterns: base)
    folder = run(model="someone/model@v2", **{"training.lora": {"start_from": "old/lora"}})
    head, body = card_of(folder, tmp_path / "it")
    assert (head["base_model"], head["base_model_relation"]) == ("someone/model", "adapter")
    assert head["license"] == "mit" and "licence of the base model is not known" not in body
    assert 'from_pretrained("someone/model", revision="v2", dtype=torch.float32)' in code_of(body)
    assert "| trained | a LoRA, from lora on, of the unet |" in body


def exported_of(base):
    """An adapter of a model without a name on the hub."""
    from penchant.runs.export import Exported

    return Exported(
        name="it",
        form=Form.DIFFUSERS,
        base=None,
        base_folder=base,
        part="unet",
        weights="w",
        step=2,
        hashes={},
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [("", ""), ("@someone/model", 'config="someone/model", '), ("@my/old/base", 'config="path/to/base", ')],
)
def test_a_model_of_one_file_is_loaded_from_it(run, tiny_model, monkeypatch, config, said):
    from penchant.reports.contents import read_run_folder
    from penchant.reports.model_card import usage

    monkeypatch.setattr("penchant.families._single_file.unpacked", lambda model, where: tiny_model)
    contents = read_run_folder(run(model=f"/home/me/Old.safetensors{config}").path)
    code = usage(contents, exported_of(tiny_model))
    assert "from diffusers import StableDiffusionPipeline\n" in code
    assert (
        f'pipeline = StableDiffusionPipeline.from_single_file("path/to/Old.safetensors", {said}'
        "dtype=torch.float32)\n"
    ) in code


def test_a_shipped_model_is_loaded_from_the_package(run, tmp_path):
    from penchant.reports.contents import read_run_folder
    from penchant.reports.model_card import front_matter, usage

    contents = read_run_folder(run(model="emoji").path)
    exported = exported_of(families.SHIPPED["emoji"])
    assert 'DiffusionPipeline.from_pretrained(SHIPPED["emoji"], dtype=torch.float32)' in usage(
        contents, exported
    )
    assert front_matter(contents, exported)["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("first", "place"),
    [("someone/base", "someone/base"), ("/home/me/base", "path/to/base"), (None, "path/to/your base model")],
)
def test_a_model_that_refines_is_used_after_another_one(run, tiny_models, tmp_path, first, place):
    from penchant.reports.contents import read_run_folder
    from penchant.reports.model_card import front_matter, usage
    from penchant.runs.export import Exported

    refiner = tiny_models("sdxl_refiner")
    contents = read_run_folder(run(model=refiner, evaluation={"first_model": first}, evaluated=False).path)
    exported = Exported(
        name="it",
        form=Form.DIFFUSERS,
        base=None,
        base_folder=refiner,
        part="unet",
        weights="w",
        step=2,
        hashes={},
    )
    code = usage(contents, exported)
    ast.parse(code)
    calls = f'''
first = DiffusionPipeline.from_pretrained("{place}", dtype=torch.float32)
begun = first(
    "your prompt",
    num_inference_steps=20,
    guidance_scale=3,
    height=16,
    width=16,
    denoising_end=0.8,
    output_type="latent",
).images
image = pipeline(
    "your prompt",
    num_inference_steps=20,
    guidance_scale=3,
    denoising_start=0.8,
    image=begun,
).images[0]'''
    assert code.endswith(calls)
    assert front_matter(contents, exported)["pipeline_tag"] == "image-to-image"


def test_a_fully_trained_model_is_a_copy(run, tiny_model, tmp_path):
    folder = run(**{"training.mode": "full", "training.lora": small.REMOVED})
    shutil.copytree(tiny_model, folder.pipeline)
    _, body = card_of(folder, tmp_path / "it", Form.PIPELINE)
    assert "A copy of the model tiny, its weights changed by diffusion-dpo" in body
    assert "| trained | every weight of the unet |" in body
