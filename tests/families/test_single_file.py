"""A checkpoint in one file: the folder it came from, to the bit, or a sentence."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from penchant import families, hub
from penchant.errors import ModelError
from penchant.families import _single_file, tiny

UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name):
    """Name in the first release of a weight of the tiny UNet, which has one layer per block."""
    for new, old in UNET.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    place, number, kind, layer, rest = re.fullmatch(
        r"(\w+?)_blocks?(?:\.(\d))?\.(\w+)\.(\d)\.(.*)", name
    ).groups()
    if kind == "resnets":
        part, leaf = rest.rsplit(".", 1)
        rest = f"{RESNET[part]}.{leaf}"
    number, layer = int(number or 0), int(layer)
    if place == "mid":
        return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{2 + 2 * number}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{1 + 2 * number}.1.{rest}"
    block = (
        f"input_blocks.{1 + 2 * number + layer}" if place == "down" else f"output_blocks.{2 * number + layer}"
    )
    return f"{block}.{0 if kind == 'resnets' else 1}.{rest}"


def vae_name(name):
    """Likewise, of the tiny autoencoder, which has two blocks."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        for new, old in ATTENTION.items():
            name = name.replace(f".{new}.", f".{old}.")
        return name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", name)


def weights(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def file(tiny_model, tmp_path_factory):
    """The tiny model in the layout of Stable Diffusion 1.x."""
    text = {name.removeprefix("text_model."): w for name, w in weights(tiny_model, "text_encoder").items()}
    whole = {
        **{f"model.diffusion_model.{unet_name(n)}": w for n, w in weights(tiny_model, "unet").items()},
        **{f"first_stage_model.{vae_name(n)}": w for n, w in weights(tiny_model, "vae").items()},
        **{f"cond_stage_model.transformer.text_model.{n}": w for n, w in text.items()},
    }
    path = tmp_path_factory.mktemp("file") / "tiny@1.5.safetensors"
    save_file(whole, path)
    return path


@pytest.fixture(scope="module")
def configuration(tiny_model, tmp_path_factory):
    """The folder without its weights."""
    target = tmp_path_factory.mktemp("configuration") / "folder"
    return shutil.copytree(tiny_model, target, ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.fixture
def marked(file, configuration, tmp_path):
    """The file with empty weights as marks and with notes, and a configuration with another scheduler."""

    def build(marks, notes=None, **scheduler):
        path = tmp_path / "marked.safetensors"
        save_file(load_file(file) | {mark: torch.tensor([]) for mark in marks}, path, metadata=notes)
        target = tmp_path / "-".join(map(str, scheduler.values()))
        if not target.exists():
            shutil.copytree(configuration, target)
        config = target / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | scheduler))
        return path, target

    return build


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_single_file, "CACHE", tmp_path_factory.mktemp("cache"))
        yield _single_file.CACHE


def refused(model):
    with pytest.raises(ModelError) as caught:
        families.resolve(str(model), where="run.yaml: model")
    return str(caught.value)


def test_the_file_is_the_folder_it_came_from(file, configuration, tiny_model, cache):
    folder = families.resolve(f"{file}@{configuration}")
    assert folder.parent == cache and folder.name.startswith("tiny@1.5-")
    for part in ("unet", "vae", "text_encoder"):
        found, expected = weights(folder, part), weights(tiny_model, part)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    found, expected = families.load(f"{file}@{configuration}"), families.load(str(tiny_model))
    prompts, pixels = ["a red fish"], torch.zeros(1, 3, 16, 16)
    assert found.name == "sd15" and found.process.prediction == "v_prediction"
    assert torch.equal(found.encode_prompts(prompts)["prompt"], expected.encode_prompts(prompts)["prompt"])
    assert torch.equal(found.encode_images(pixels)[0], expected.encode_images(pixels)[0])


def test_it_is_written_out_once_for_one_configuration(file, configuration, tmp_path):
    folder = families.resolve(f"{file}@{configuration}")
    written = (folder / "model_index.json").stat().st_mtime_ns
    assert families.resolve(f"{file}@{configuration}") == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == written
    other = shutil.copytree(configuration, tmp_path / "other")
    scheduler = other / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("v_prediction", "epsilon"))
    assert families.load(f"{file}@{other}").process.prediction == "epsilon"


def test_without_a_configuration_it_is_that_of_the_hub(file, configuration, monkeypatch):
    asked = []

    def stand_in(repository, *, revision, allow_patterns, ignore_patterns):
        asked.append((repository, allow_patterns))
        return str(configuration)

    monkeypatch.setattr(hub, "snapshot_download", stand_in)
    assert families.resolve(str(file)) == families.resolve(f"{file}@{configuration}")
    assert {repository for repository, _ in asked} == {"stable-diffusion-v1-5/stable-diffusion-v1-5"}
    assert asked[0][1] == ["model_index.json"] and "unet/*.json" in asked[1][1]
    assert not any("safetensors" in pattern for _, patterns in asked for pattern in patterns)


def test_a_file_of_another_family_than_the_configuration(file, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    assert refused(f"{file}@{tmp_path}") == (
        f"run.yaml: model: {file} holds Stable Diffusion 1.x, but {tmp_path} is the configuration of a "
        f"StableDiffusionXLPipeline. Name the folder of a StableDiffusionPipeline: {file}@FOLDER."
    )


def test_a_file_of_xl_with_a_configuration_of_another_family(configuration, tmp_path):
    path = tmp_path / "xl.safetensors"
    save_file({"conditioner.embedders.1.model.positional_embedding": torch.zeros(1)}, path)
    assert refused(f"{path}@{configuration}") == (
        f"run.yaml: model: {path} holds Stable Diffusion XL, but {configuration} is the configuration of a "
        f"StableDiffusionPipeline. Name the folder of a StableDiffusionXLPipeline: {path}@FOLDER."
    )


def test_a_file_of_a_family_that_is_not_read(tmp_path):
    path = tmp_path / "flux.safetensors"
    save_file({"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}, path)
    assert refused(path) == (
        f"run.yaml: model: {path} is no checkpoint of a whole model that is read from a single file, got "
        "weights such as 'double_blocks.0.img_attn.norm.key_norm.scale'. Supported: Stable Diffusion 1.x, "
        "Stable Diffusion 2.x, Stable Diffusion XL, with their text encoders. Give the model as a folder in "
        "diffusers' form, or as owner/name on the hub."
    )


@pytest.mark.parametrize(
    ("marks", "notes", "configured", "said"),
    [
        (["v_pred"], {}, "epsilon", "v_prediction"),
        (["v_pred"], {"modelspec.prediction_type": "epsilon"}, "epsilon", "v_prediction"),
        ([], {"modelspec.prediction_type": "v"}, "epsilon", "v_prediction"),
        ([], {"modelspec.predict_key": "v"}, "epsilon", "v_prediction"),
        ([], {"modelspec.prediction_type": "epsilon"}, "v_prediction", "epsilon"),
    ],
)
def test_a_file_that_says_what_the_configuration_contradicts(marked, marks, notes, configured, said):
    file, configuration = marked(marks, notes, prediction_type=configured)
    assert refused(f"{file}@{configuration}") == (
        f"run.yaml: model: {file} says that its prediction type is {said!r}, but the scheduler of "
        f"{configuration} has {configured!r}. Name a folder or model of the hub that fits: {file}@FOLDER."
    )
    file, configuration = marked(marks, notes, prediction_type=said)
    assert families.load(f"{file}@{configuration}").process.prediction == said


def test_a_file_of_zero_terminal_snr(marked):
    file, configuration = marked(["v_pred", "ztsnr"], prediction_type="v_prediction")
    assert refused(f"{file}@{configuration}") == (
        f"run.yaml: model: {file} says that its noise ends in pure noise (it is marked by 'ztsnr'), but the "
        f"scheduler of {configuration} has no rescale_betas_zero_snr. Name a folder or model of the hub that "
        f"fits: {file}@FOLDER."
    )
    file, configuration = marked(
        ["v_pred", "ztsnr"], prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    assert families.load(f"{file}@{configuration}").process.alphas_cumprod[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("mark", ["edm_mean", "edm_vpred.sigma_max"])
def test_a_file_of_continuous_noise_levels(marked, mark):
    file, configuration = marked([mark], prediction_type="epsilon")
    assert refused(f"{file}@{configuration}") == (
        f"run.yaml: model: {file} holds a model of continuous noise levels (EDM; it is marked by {mark!r}), "
        "as Playground 2.5 and CosXL, which is not supported. Give a model that predicts epsilon or v."
    )


def test_a_file_that_does_not_say_what_it_predicts(tmp_path):
    path = tmp_path / "v2.safetensors"
    save_file({"cond_stage_model.model.positional_embedding": torch.zeros(1)}, path)
    assert refused(path) == (
        f"run.yaml: model: {path} holds Stable Diffusion 2.x, of which some predict epsilon and some v. Name "
        f"a folder or model of the hub that says which: {path}@FOLDER."
    )


def test_a_file_that_is_missing_or_cut_short(file, tmp_path):
    missing, cut = tmp_path / "no.safetensors", tmp_path / "cut.safetensors"
    assert refused(missing) == f"run.yaml: model: no file '{missing}'. Check the path."
    cut.write_bytes(file.read_bytes()[:-100])
    assert refused(cut).startswith(f"run.yaml: model: {cut} is damaged (")


@pytest.mark.parametrize("gone", ["first_stage_model.encoder.conv_in.weight", "first_stage_model."])
def test_weights_that_are_missing(file, configuration, tmp_path, cache, gone):
    path = tmp_path / "half.safetensors"
    save_file({name: w for name, w in load_file(file).items() if not name.startswith(gone)}, path)
    sentence = refused(f"{path}@{configuration}")
    assert sentence.startswith(
        f"run.yaml: model: {path} cannot be read as Stable Diffusion 1.x with the configuration of "
        f"{configuration} ("
    )
    assert sentence.endswith(f"). Name the folder or model of the hub that it was made from: {path}@FOLDER.")
    assert not [folder for folder in cache.iterdir() if "partial" in folder.name]


def test_a_configuration_that_is_wider_than_the_file(file, tmp_path):
    wider = tiny.stable_diffusion_xl(tmp_path / "xl")
    index = json.loads((wider / "model_index.json").read_text())
    (wider / "model_index.json").write_text(
        json.dumps(
            {k: v for k, v in index.items() if "_2" not in k and "image" not in k}
            | {"_class_name": "StableDiffusionPipeline"}
        )
    )
    assert "cannot be read as Stable Diffusion 1.x with the configuration of" in refused(f"{file}@{wider}")
