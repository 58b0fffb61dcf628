"""Exports of every family, loaded back by the tools they are for; what is refused; what is replaced."""

import hashlib
import inspect
import json
import os
import re
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tests import small

from penchant import families
from penchant.errors import ModelError, PenchantError, RunFolderError
from penchant.evaluation.refining import refinement
from penchant.evaluation.sampling import Request, Sampler, draw, sampler_of
from penchant.reports.contents import read_run_folder
from penchant.reports.model_card import usage
from penchant.runs.export import CARD, LIST, export
from penchant.runs.folder import RunFolder
from penchant.runs.forms import Form
from penchant.runs.load import load
from penchant.runs.stored_lora import StoredLora
from penchant.training.adapters import add_lora, save_lora

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
"""From within diffusers' multistep scheduler."""

FAMILIES = ("sd15", "sdxl", "sdxl_refiner", "sd3", "flux", "sana", "z_image", "wan")
TARGETS: dict[
    str, list[str]
] = {  # linear layers of attention and feed-forward, and every kind of convolution
    "sd15": [
        "to_q",
        "to_out.0",
        "ff.net.0.proj",
        "proj_in",
        "time_emb_proj",
        "conv1",
        "conv_shortcut",
        "conv",
    ],
    "sdxl": ["to_k", "to_out.0", "ff.net.2", "proj_out", "conv2", "conv_in"],
    "sdxl_refiner": ["to_v", "ff.net.0.proj", "conv_shortcut", "conv_out"],
}
REQUESTS = [Request(prompt="a red fish", seed=0), Request(prompt="two birds", seed=1)]
SIZES = {"sana": 32}
STEPS = {"sdxl_refiner": 10}
"""Of the card's image; two of them are the refiner's own."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished run, what its base and its own tuned network draw, and what its evaluation would draw."""

    folder: RunFolder
    sampler: Sampler
    base: torch.Tensor
    tuned: torch.Tensor
    evaluated: torch.Tensor

    def assert_drawn_by(self, pipeline):
        images = drawn_by(pipeline, self.sampler)
        torch.testing.assert_close(images, self.tuned, rtol=0, atol=2e-5)
        assert not torch.allclose(self.base, self.tuned, atol=1e-3)


def card(folder, exported):
    return f"{exported.name} {exported.form} {exported.weights} {exported.step}\n"


def drawn_by(pipeline, sampler):
    """Two images; a pipeline that refines is given latents."""

    def refined(height, width, **told):
        begun = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        return pipeline(image=begun, denoising_start=0.8, **told)

    refines = "denoising_start" in inspect.signature(pipeline.__call__).parameters
    return draw(refined if refines else pipeline, REQUESTS, sampler)


def exported(folder, form, to, **options):
    return export(folder, form=form, to=to, card=card, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tiny_models, tiny_pairs, tmp_path_factory):
    """Alpha is not the rank, so that a scale which is lost or used twice shows."""
    place = tmp_path_factory.mktemp("run")
    model, first = tiny_models(request.param), None
    family: Any = families.load(str(model))
    size, steps = SIZES.get(request.param, 16), STEPS.get(request.param, 2)
    asked: Any = {"guidance": 3.0, "eta": 0.0, "size": size}
    sampler = sampler_of(family, num_steps=1, batch_size=2, **asked)
    base = drawn_by(family.pipeline, sampler)
    targets = TARGETS.get(request.param) or family.lora_targets
    add_lora(family.network, rank=2, alpha=6, targets=targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in family.network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    tuned = drawn_by(family.pipeline, sampler)
    evaluating = family.pipeline
    if request.param == "sdxl_refiner":
        first = tiny_models("sdxl")
        beginner: Any = families.load(str(first))
        evaluating = refinement(beginner, family, num_steps=steps)
    one = [Request(prompt="your prompt", seed=0)]
    evaluated = draw(evaluating, one, sampler_of(family, num_steps=steps, batch_size=1, **asked))
    changes = {
        "training.ema": small.REMOVED,
        "data.size": size,
        "evaluation": {"num_steps": steps, "first_model": first and str(first)},
    }
    folder = small.untrained(small.run_options(model, tiny_pairs, place / "out", changes))
    save_lora(family, folder.adapter)
    return Made(folder=folder, sampler=sampler, base=base, tuned=tuned, evaluated=evaluated)


@pytest.fixture(scope="module")
def run_folder(made):
    return made.folder


@pytest.fixture(scope="module")
def plain(run_folder):
    """The base model as a user of diffusers loads it; tests take off again what they put on."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(load(run_folder.run_file).model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_diffusers_form_is_loaded_by_any_pipeline(run_folder, made, plain, tmp_path):
    plain.load_lora_weights(exported(run_folder, Form.DIFFUSERS, tmp_path / "lora"))
    made.assert_drawn_by(plain)
    plain.unload_lora_weights()


def test_the_peft_form_is_loaded_by_peft(run_folder, made, plain, tmp_path):
    part = "unet" if "unet" in plain.components else "transformer"
    folder, network = exported(run_folder, Form.PEFT, tmp_path / "lora"), getattr(plain, part)
    setattr(plain, part, PeftModel.from_pretrained(deepcopy(network), str(folder)).merge_and_unload())
    made.assert_drawn_by(plain)
    setattr(plain, part, network)
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 6


WITHOUT_KOHYA = {
    name: f"{number} of {number} layers under these key names, for example {layer}"
    for name, number, layer in (
        ("StableDiffusion3Pipeline", 18, "transformer_blocks.0.attn.add_k_proj"),
        ("SanaPipeline", 16, "transformer_blocks.0.attn1.to_k"),
        ("ZImagePipeline", 16, "context_refiner.0.attention.to_k"),
        ("WanPipeline", 16, "blocks.0.attn1.to_k"),
    )
}


def test_the_kohya_form_is_loaded_by_diffusers_or_refused(run_folder, made, plain, tmp_path):
    kind = type(plain).__name__
    if kind in WITHOUT_KOHYA:
        with pytest.raises(ModelError) as caught:
            exported(run_folder, Form.KOHYA, tmp_path / "lora")
        assert str(caught.value) == (
            f"--form kohya: {kind} of diffusers would not read {WITHOUT_KOHYA[kind]}. Take --form diffusers"
            + (", which ComfyUI reads for this model as well." if "Diffusion3" in kind else ".")
        )
        assert not (tmp_path / "lora").exists()
        return
    folder = exported(run_folder, Form.KOHYA, tmp_path / "lora")
    plain.load_lora_weights(folder)
    made.assert_drawn_by(plain)
    plain.unload_lora_weights()
    tensors = load_file(folder / "lora.safetensors")
    prefix = "lora_unet_" if "unet" in plain.components else "lora_transformer_"
    assert all(name.startswith(prefix) for name in tensors)
    assert {name.partition(".")[2] for name in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert {tensor.item() for name, tensor in tensors.items() if name.endswith(".alpha")} == {6.0}


@pytest.mark.parametrize(
    ("layers", "lost"),
    [
        (["transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.2"], "1 of 2 layers .* for example "
                                                                                "transformer_blocks.0.ff.net.2"),
        (["norm_in"], "1 of 1 layers .* for example norm_in"),
    ],
)  # fmt: skip
def test_a_layer_that_kohyas_names_would_lose_is_named(layers, lost, tmp_path):
    down, up = ({name: torch.ones(shape) for name in layers} for shape in ((2, 4), (4, 2)))
    lora = StoredLora(part="transformer", down=down, up=up, config=LoraConfig(r=2, lora_alpha=2))
    with pytest.raises(ModelError, match=lost):
        lora.write_kohya(tmp_path / "it.safetensors", pipeline=diffusers.FluxPipeline)
    assert not list(tmp_path.iterdir())


def test_a_merged_pipeline_is_plain_diffusers(run_folder, made, tmp_path):
    folder = exported(run_folder, Form.PIPELINE, tmp_path / "merged")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    made.assert_drawn_by(pipeline)
    network = pipeline.components["unet" if "unet" in pipeline.components else "transformer"]
    assert not any("lora" in name for name, _ in network.named_parameters())
    assert families.resolve(str(folder)) == folder


def test_the_code_of_the_card_draws_what_the_evaluation_draws(made, tmp_path, monkeypatch):
    """To the last of 255 steps: same size, same guidance, an image of the tuned model."""

    def code(folder, exported):
        return usage(read_run_folder(folder.path), exported)

    run = load(made.folder.run_file)
    (tmp_path / "path" / "to").mkdir(parents=True)
    for model in filter(None, (run.model, run.evaluation.first_model)):
        (tmp_path / "path" / "to" / Path(model).name).symlink_to(model)
    text = (export(made.folder, form=Form.DIFFUSERS, to=tmp_path / "lora", card=code) / CARD).read_text()
    loading, call, drawing = re.split(r"^(\w+ = (?:first|pipeline)\()", text, maxsplit=1, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(loading, names)
    torch.manual_seed(0)
    exec(call + drawing, names)
    image = torch.from_numpy(np.array(names["image"])).permute(2, 0, 1) / 255
    torch.testing.assert_close(image, made.evaluated[0], rtol=0, atol=0.6 / 255)


# What follows does not depend on the family.


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_pairs, tmp_path_factory):
    """A run of two steps with a moving average, as `penchant train` leaves it."""
    output = tmp_path_factory.mktemp("run") / "out"
    lora = {"rank": 2, "alpha": 4}
    changes = {"data.heldout_split": None, "training.lora": lora, "training.learning_rate": 0.05}
    return small.train(small.run_options(tiny_model, tiny_pairs, output, changes))[0]


def adapter_of(folder):
    return load_file(folder / "pytorch_lora_weights.safetensors")


def test_the_folder_holds_weights_card_and_a_list_with_hashes(finished, tmp_path):
    folder = exported(finished, Form.DIFFUSERS, tmp_path / "some" / "lora", name="me/lora")
    assert files_of(folder) == {"pytorch_lora_weights.safetensors", CARD, LIST}
    assert (folder / CARD).read_text() == "me/lora diffusers pytorch_lora_weights.safetensors 2\n"
    listed = json.loads((folder / LIST).read_text())
    assert (listed["form"], listed["step"]) == ("diffusers", 2)
    for name, digest in listed["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert files_of(folder) == {*listed["files"], LIST}
    assert [path.name for path in folder.parent.iterdir()] == ["lora"]
    rights = (folder / CARD).stat().st_mode
    weights = [folder / "pytorch_lora_weights.safetensors", *finished.adapter.iterdir()]
    assert all(path.stat().st_mode == rights for path in weights)


def test_an_unfinished_run_is_exported_from_its_newest_checkpoint(finished, tmp_path):
    """The run's own end is that checkpoint, so both exports are the same."""
    stopped = RunFolder(shutil.copytree(finished.path, tmp_path / "stopped"))
    known = json.loads(stopped.manifest.read_text())
    stopped.manifest.write_text(json.dumps({**known, "complete": False}))
    shutil.rmtree(stopped.adapter)
    one, other = (exported(f, Form.DIFFUSERS, tmp_path / n) for f, n in ((finished, "a"), (stopped, "b")))
    a, b = adapter_of(one), adapter_of(other)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    shutil.rmtree(stopped.checkpoints)
    with pytest.raises(RunFolderError, match=r"stopped: the training has not finished and has no checkpoint"):
        exported(stopped, Form.DIFFUSERS, tmp_path / "c")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"cannot be read as JSON \(Expecting"),
        ("[]", r"must be an object with model_hash and data_hash, as training writes it, got \[\]\."),
        ('{"complete": true, "model_hash": "x"}', "must be an object with model_hash and data_hash, "),
        (
            '{"complete": true}',
            r"must be an object with model_hash and data_hash, .* got \{'complete': True\}\.",
        ),
    ],
)
def test_a_damaged_manifest_is_named(finished, tmp_path, text, sentence):
    damaged = RunFolder(shutil.copytree(finished.path, tmp_path / "run"))
    damaged.manifest.write_text(text)
    with pytest.raises(RunFolderError, match=rf"manifest\.json: {sentence}.* Put the old one back, or train"):
        exported(damaged, Form.DIFFUSERS, tmp_path / "lora")


def test_a_run_that_went_on_from_an_adapter_is_exported_with_its_scale(finished, options, tmp_path):
    changes = {"training.lora": {"start_from": str(finished.adapter)}, "training.ema": small.REMOVED}
    raw = options(**changes, **{"data.heldout_split": None})
    folder = small.untrained(raw, complete=False)
    small.write_checkpoint(folder, 1, **small.in_training(small.adapter(finished.path)[0]))
    found = adapter_of(exported(folder, Form.DIFFUSERS, tmp_path / "lora"))
    expected = adapter_of(exported(finished, Form.DIFFUSERS, tmp_path / "start"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_fully_trained_model_is_exported_as_pipeline_alone(options, tiny_model, tmp_path):
    """As it is at the end, from its checkpoint before."""
    raw = options(**{"training.mode": "full", "training.lora": small.REMOVED, "training.ema": None})
    folder = small.untrained(raw)
    family = families.load(str(tiny_model))
    trained = {name: tensor + 1 for name, tensor in family.network.named_parameters()}
    family.network.load_state_dict(trained)
    families.copy_other_parts(tiny_model, folder.pipeline, trained="unet")
    family.network.save_pretrained(folder.pipeline / "unet")
    small.write_checkpoint(folder, 1, **trained)
    for number, complete in enumerate((True, False)):
        folder.manifest.write_text(
            json.dumps({**json.loads(folder.manifest.read_text()), "complete": complete})
        )
        whole = exported(folder, Form.PIPELINE, tmp_path / f"whole-{number}")
        assert files_of(whole) == {*files_of(folder.pipeline), CARD, LIST}
        found = load_file(whole / "unet" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())
    with pytest.raises(RunFolderError) as caught:
        exported(folder, Form.DIFFUSERS, tmp_path / "lora")
    assert str(caught.value) == (
        f"{folder.path}: every weight was trained, so there is no LoRA. Take --form pipeline."
    )


@pytest.fixture
def half(finished, tmp_path):
    """The same run on a base whose UNet is stored in half precision."""
    run = load(finished.run_file)
    base = shutil.copytree(run.model, tmp_path / "half")
    diffusers.UNet2DConditionModel.from_pretrained(base / "unet").half().save_pretrained(base / "unet")
    changes = {"model": str(base), "output": str(tmp_path / "run")}
    folder = small.untrained({**run.model_dump(mode="json"), **changes})
    shutil.copytree(finished.adapter, folder.adapter)
    return folder


def test_a_merged_pipeline_keeps_the_type_of_the_base(half, finished, tmp_path):
    name = "unet/diffusion_pytorch_model.safetensors"
    merged = load_file(exported(half, Form.PIPELINE, tmp_path / "merged") / name)
    exact = load_file(exported(finished, Form.PIPELINE, tmp_path / "exact") / name)
    assert {tensor.dtype for tensor in merged.values()} == {torch.float16}
    for name, tensor in exact.items():
        torch.testing.assert_close(merged[name].float(), tensor, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "100KB"}])
def test_second_copies_in_another_type_are_not_looked_at(finished, tmp_path, shards):
    """As a clone of SDXL holds them: the type is that of the file that is loaded, the others stay behind."""
    run = load(finished.run_file)
    base = shutil.copytree(run.model, tmp_path / "both")
    unet = diffusers.UNet2DConditionModel.from_pretrained(base / "unet")
    shutil.rmtree(base / "unet")
    unet.save_pretrained(base / "unet", **shards)
    assert len(list((base / "unet").glob("*.safetensors"))) > 1 or not shards
    unet.half().save_pretrained(base / "unet", variant="fp16", **shards)
    for part, sign in (("vae", "bf16"), ("text_encoder", "fp16"), ("vae", "non_ema")):
        (path,) = (p for p in (base / part).glob("*.safetensors") if p.name.count(".") == 1)
        shutil.copy(path, path.with_suffix(f".{sign}.safetensors"))
    changes = {"model": str(base), "output": str(tmp_path / "run")}
    folder = small.untrained({**run.model_dump(mode="json"), **changes})
    shutil.copytree(finished.adapter, folder.adapter)
    merged = exported(folder, Form.PIPELINE, tmp_path / "merged")
    (path,) = (merged / "unet").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
    assert not [name for name in files_of(merged) if "fp16" in name or "bf16" in name or "non_ema" in name]
    assert files_of(merged) - {CARD, LIST} == files_of(Path(run.model))


def test_a_lora_with_nan_is_not_merged(half, tmp_path):
    path = half.adapter / "pytorch_lora_weights.safetensors"
    tensors, notes = small.adapter(half.path)
    save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, path, metadata=notes)
    with pytest.raises(
        RunFolderError, match="the LoRA holds numbers that are not finite, so it cannot be folded"
    ):
        exported(half, Form.PIPELINE, tmp_path / "merged")


def test_a_base_that_has_changed_is_not_merged_into(half, tmp_path):
    (Path(load(half.run_file).model) / "unet" / "more.json").write_text("{}")
    with pytest.raises(ModelError, match=r"half has changed since the training\. Put the old one back"):
        exported(half, Form.PIPELINE, tmp_path / "merged")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: {}, "holds nothing, which is no plain LoRA"),
        (lambda tensors: dict(list(tensors.items())[1:]), r"holds down\S+, which is no plain LoRA"),
        (
            lambda tensors: {**tensors, "unet.a.lora_magnitude_vector": torch.ones(1)},
            "holds a.lora_magnitude_vector, which is no plain LoRA, and cannot be exported",
        ),
    ],
)
def test_what_is_no_plain_lora_is_refused(half, tmp_path, change, sentence):
    path = half.adapter / "pytorch_lora_weights.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(RunFolderError, match=sentence):
        exported(half, Form.DIFFUSERS, tmp_path / "lora")


def test_a_damaged_lora_is_not_called_a_full_disk(half, tmp_path):
    path = half.adapter / "pytorch_lora_weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunFolderError) as caught:
        exported(half, Form.DIFFUSERS, tmp_path / "lora")
    assert str(caught.value).startswith(f"{path}: is damaged (")
    assert str(caught.value).endswith("). Put the file back, or train again.")


def test_a_lora_without_notes_has_scale_one(half, finished, tmp_path):
    path = half.adapter / "pytorch_lora_weights.safetensors"
    save_file(load_file(path), path)
    found = load_file(exported(half, Form.KOHYA, tmp_path / "lora") / "lora.safetensors")
    assert {tensor.item() for name, tensor in found.items() if name.endswith(".alpha")} == {2.0}
    path.unlink()
    with pytest.raises(RunFolderError, match=r"safetensors: is missing\. Train again, or put the file back"):
        exported(half, Form.DIFFUSERS, tmp_path / "other")


def test_nothing_is_overwritten_unasked_and_nothing_foreign_at_all(finished, tmp_path):
    to = tmp_path / "lora"
    exported(finished, Form.PIPELINE, to)
    (to / "notes.txt").write_text("mine")
    with pytest.raises(
        RunFolderError, match=r"lora: exists and is not empty\. Give another --to, or replace"
    ):
        exported(finished, Form.PEFT, to)
    exported(finished, Form.PEFT, to, overwrite=True)
    assert files_of(to) == {"notes.txt", "adapter_config.json", "adapter_model.safetensors", CARD, LIST}
    assert not any(path.is_dir() for path in to.iterdir())
    with pytest.raises(
        RunFolderError, match=r"holds no export\.json of an earlier export, so nothing is replaced"
    ):
        exported(finished, Form.PEFT, finished.path, overwrite=True)
    with pytest.raises(RunFolderError, match=r"notes\.txt: is a file, not a folder\. Give another --to"):
        exported(finished, Form.PEFT, to / "notes.txt")


def test_a_list_that_names_files_outside_removes_none_of_them(finished, tmp_path):
    to, outside = tmp_path / "lora", tmp_path / "precious"
    to.mkdir()
    outside.write_text("mine")
    (to / LIST).write_text(json.dumps({"files": {"../precious": "", str(outside): ""}}))
    exported(finished, Form.PEFT, to, overwrite=True)
    assert outside.read_text() == "mine"


def test_a_failed_export_leaves_the_earlier_one(finished, tmp_path):
    def broken(folder, exported):
        raise PenchantError("the card cannot be written")

    to = tmp_path / "lora"
    exported(finished, Form.DIFFUSERS, to)
    before = files_of(to)
    with pytest.raises(PenchantError, match="the card"):
        export(finished, form=Form.PEFT, to=to, card=broken, overwrite=True)
    assert files_of(to) == before and [path.name for path in tmp_path.iterdir()] == ["lora"]


def content_of(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


@pytest.mark.parametrize("taken", ["adapter_config.json", "adapter_config.json/mine.txt"])
def test_a_name_that_is_taken_is_left_alone(finished, tmp_path, taken):
    """A file or a folder of the user's own; the earlier export stays whole."""
    to = tmp_path / "lora"
    exported(finished, Form.DIFFUSERS, to)
    (to / taken).parent.mkdir(exist_ok=True)
    (to / taken).write_text("mine")
    before = content_of(to)
    with pytest.raises(RunFolderError) as caught:
        exported(finished, Form.PEFT, to, overwrite=True)
    assert str(caught.value) == (
        f"{to / 'adapter_config.json'}: is in the way of the export and is not of the earlier one, so "
        "nothing is replaced. Move it, or give another --to."
    )
    assert content_of(to) == before


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_that_is_needed_is_neither_a_file_nor_leads_elsewhere(finished, tmp_path, link):
    to, elsewhere = tmp_path / "whole", tmp_path / "elsewhere"
    exported(finished, Form.PEFT, to)
    elsewhere.mkdir()
    (to / "unet").symlink_to(elsewhere) if link else (to / "unet").write_text("mine")
    with pytest.raises(RunFolderError, match=r"whole/unet: is in the way of the export"):
        exported(finished, Form.PIPELINE, to, overwrite=True)
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize("moved", range(4))
def test_an_export_that_was_killed_is_repeated(finished, tmp_path, monkeypatch, moved):
    """Killed before each of its moves, of the three files and the last list."""
    to, replace, left = tmp_path / "lora", os.replace, [moved + 1]  # the first is that of the list
    exported(finished, Form.DIFFUSERS, to)

    def killed(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            exported(finished, Form.PEFT, to, overwrite=True)
    assert files_of(to) >= {CARD, LIST}
    exported(finished, Form.PEFT, to, overwrite=True)
    assert files_of(to) == {"adapter_config.json", "adapter_model.safetensors", CARD, LIST}
    assert files_of(to) == {*json.loads((to / LIST).read_text())["files"], LIST}
