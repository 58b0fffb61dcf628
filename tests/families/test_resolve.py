"""A model folder that is missing, half there, unsafe or of another kind is refused in a sentence."""

import json
import shutil

import pytest

from penchant.errors import ModelError
from penchant.families import SHIPPED, copy_other_parts, family_of, resolve, sd15


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def refused(folder) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(str(folder), where="run.yaml: model")
    return str(caught.value)


def test_a_whole_folder_is_found(tiny_model):
    assert resolve(str(tiny_model)) == tiny_model
    assert family_of(tiny_model) is sd15


def test_a_missing_path(tmp_path):
    assert refused(tmp_path / "no") == (
        f"run.yaml: model: no model folder '{tmp_path}/no'. Give a folder written by save_pretrained, a "
        ".safetensors file, the name of a model on the hub (owner/name@revision), or one of the shipped "
        f"models: {', '.join(SHIPPED)}."
    )


def test_a_folder_that_is_no_pipeline(tmp_path):
    assert refused(tmp_path) == (
        f"run.yaml: model: {tmp_path} is not a pipeline folder: model_index.json is missing. Give the folder "
        "that holds model_index.json and a folder for each part, such as unet/ or transformer/, vae/, "
        "text_encoder/ and scheduler/."
    )


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_half_a_pipeline_folder(folder, part):
    shutil.rmtree(folder / part)
    assert refused(folder) == (
        f"run.yaml: model: half a pipeline folder: {part}/ is named in model_index.json but missing. "
        "Download the folder again."
    )


def test_a_part_without_config_or_weights(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert refused(folder) == (
        "run.yaml: model: half a pipeline folder: vae/ has no safetensors weights. Download the folder "
        "again, or take a revision that has them. A model that has them as a variant alone "
        "(*.fp16.safetensors) must be loaded once with diffusers and variant='fp16', and saved with "
        "save_pretrained."
    )
    (folder / "vae" / "config.json").unlink()
    assert refused(folder) == "run.yaml: model: half a pipeline folder: vae/config.json is missing."


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_weights_in_pickle_form(folder, name):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / name)
    assert refused(folder) == (
        f"run.yaml: model: unet/{name} is a pickle file, which can run code when it is loaded; refused. "
        "Convert it once, where you trust it: load the pipeline with diffusers and call "
        "save_pretrained(folder, safe_serialization=True)."
    )


@pytest.mark.parametrize(
    "name",
    ["{}.fp16.safetensors", "{}.fp16-00001-of-00002.safetensors", "{}-00001-of-00002.fp16.safetensors"],
)
def test_weights_of_a_variant_alone(folder, name):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, folder / "unet" / name.format(weights.stem))
    assert resolve(str(folder)) == folder
    weights.unlink()
    assert refused(folder) == (
        "run.yaml: model: unet/ has weights of the variant 'fp16' alone, which are not loaded. Load the "
        "pipeline once with diffusers and variant='fp16', call save_pretrained, and give that folder."
    )


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_that_are_cut_short(folder, part):
    (weights,) = (folder / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    sentence = refused(folder)
    assert sentence.startswith(f"run.yaml: model: {part}/{weights.name} is damaged (")
    assert sentence.endswith("). Download the folder again.")


def test_an_index_that_is_no_json(folder):
    (folder / "model_index.json").write_text("{")
    assert refused(folder).startswith(f"run.yaml: model: {folder}/model_index.json cannot be read as JSON: ")


def test_a_pipeline_of_another_class(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "MochiPipeline"}))
    with pytest.raises(ModelError) as caught:
        family_of(folder, where="run.yaml: model")
    assert str(caught.value).startswith(
        f"run.yaml: model: {folder} holds a MochiPipeline, which no family loads. Supported: "
    )
    assert "StableDiffusionPipeline" in str(caught.value)


def test_a_pipeline_with_code_of_its_own(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", "MyPipeline"]}))
    with pytest.raises(ModelError) as caught:
        family_of(folder, where="run.yaml: model")
    assert str(caught.value).startswith(
        f"run.yaml: model: {folder} holds a ['pipeline', 'MyPipeline'], which no family loads. Supported: "
    )


def test_a_shard_that_is_missing(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "unet" / f"{weights.name}.index.json").write_text(
        json.dumps({"weight_map": {"a": weights.name, "b": "second.safetensors"}})
    )
    assert refused(folder) == (
        "run.yaml: model: half a pipeline folder: unet/second.safetensors is named in "
        "diffusion_pytorch_model.safetensors.index.json but missing. Download the folder again."
    )


def test_other_parts_are_copied_without_pickles_and_unused_parts(folder, tmp_path):
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "vae" / "old.bin").write_bytes(b"")
    copy_other_parts(folder, tmp_path / "copy", trained="unet")
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    original = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert copied == {name for name in original if not name.startswith("unet")} - {"vae/old.bin"}
    known = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert known == index | {"safety_checker": [None, None]}
