"""Models close to a supported one, which their pipeline calls in another way, are refused in a sentence."""

import json

import pytest
from diffusers import UNet2DConditionModel

from penchant import families
from penchant.errors import ModelError
from penchant.families import tiny


@pytest.fixture(params=["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_xl_refiner"])
def with_unet(request, tmp_path):
    return getattr(tiny, request.param)(tmp_path / "model")


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder):
    with pytest.raises(ModelError) as caught:
        families.load(str(folder), where="run.yaml: model")
    return str(caught.value)


def test_a_unet_that_is_told_a_guidance_scale(with_unet):
    """Its pipeline tells it `timestep_cond`, from which it was distilled: LCM."""
    config = UNet2DConditionModel.load_config(with_unet / "unet")
    UNet2DConditionModel.from_config(config, time_cond_proj_dim=8).save_pretrained(with_unet / "unet")
    assert refused(with_unet) == (
        "run.yaml: model: the UNet is told a guidance scale (time_cond_proj_dim), as one distilled to a "
        "latent consistency model; it is not trained here as its pipeline calls it. Give the model that it "
        "was made from."
    )


def test_a_unet_for_inpainting(with_unet):
    config = UNet2DConditionModel.load_config(with_unet / "unet")
    UNet2DConditionModel.from_config(config, in_channels=9).save_pretrained(with_unet / "unet")
    assert refused(with_unet) == (
        "run.yaml: model: the unet takes 9 channels, its autoencoder gives 4, as of a model that is given "
        "more than noise, for inpainting or editing. Give one that draws from text alone."
    )


@pytest.mark.parametrize("side", [None, [8, 16]])
def test_a_unet_without_a_side(with_unet, side):
    changed(with_unet / "unet" / "config.json", sample_size=side)
    assert refused(with_unet) == (
        f"run.yaml: model: unet/config.json: sample_size must be a whole number, the side of a latent, got "
        f"{side}. Write it there: 64 for images of 512 pixels, 128 for 1024."
    )


@pytest.mark.parametrize("build", [tiny.stable_diffusion_xl, tiny.stable_diffusion_xl_refiner])
def test_an_autoencoder_with_a_mean_and_deviation_by_channel(build, tmp_path):
    folder = build(tmp_path / "model")
    changed(folder / "vae" / "config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    assert refused(folder) == (
        "run.yaml: model: vae/config.json: latents_mean and latents_std, by which the pipeline of SDXL "
        "scales latents, are not supported. Give a model whose autoencoder has a scaling_factor alone."
    )


def test_a_flow_whose_shift_is_linear(tmp_path):
    folder = tiny.flux(tmp_path / "model")
    changed(folder / "scheduler" / "scheduler_config.json", time_shift_type="linear")
    assert refused(folder) == (
        "run.yaml: model: scheduler FlowMatchEulerDiscreteScheduler with time_shift_type 'linear': not "
        "supported with use_dynamic_shifting, where the shift is exponential here. Give the scheduler that "
        "the model was published with."
    )


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (tiny.stable_diffusion, "text_encoder"),
        (tiny.stable_diffusion_xl, "vae"),
        (tiny.flux, "text_encoder_2"),
        (tiny.wan, "transformer"),
    ],
)
def test_a_part_that_is_empty(build, part, tmp_path):
    folder = build(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    changed(folder / "model_index.json", **{part: [None, None]})
    assert refused(folder) == (
        f"run.yaml: model: {folder}: {part} is empty in model_index.json, but a {index['_class_name']} needs "
        "it. Give a folder that holds it."
    )


def test_a_text_encoder_without_its_tokenizer(tmp_path):
    folder = tiny.stable_diffusion_3(tmp_path / "model")
    changed(folder / "model_index.json", tokenizer_3=[None, None])
    assert refused(folder) == (
        f"run.yaml: model: {folder}: tokenizer_3 is empty in model_index.json, but text_encoder_3 is not. "
        "Give a folder that holds both, or name both as [null, null] if the model is used without."
    )


def test_a_tokenizer_that_is_left_without_its_text_encoder(tmp_path):
    folder = tiny.stable_diffusion_3(tmp_path / "model")
    changed(folder / "model_index.json", text_encoder_3=[None, None])
    states = families.load(str(folder)).encode_prompts(["a fish"])["prompt"]
    assert states[:, -families.sd3.T5_LIMIT :].abs().max() == 0


def test_a_square_that_is_named_by_two_sides(tmp_path):
    folder = tiny.stable_diffusion(tmp_path / "model")
    changed(folder / "unet" / "config.json", sample_size=[8, 8])
    assert families.load(str(folder)).sample_shape[1:] == (8, 8)


def test_a_scheduler_of_another_kind(tmp_path):
    folder = tiny.stable_diffusion(tmp_path / "model")
    changed(folder / "scheduler" / "scheduler_config.json", prediction_type="flow_prediction")
    assert refused(folder).startswith("run.yaml: model: scheduler ")
