"""Stable Diffusion 1.x and 2.x, as plain diffusers computes it."""

import logging

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from penchant import families
from penchant.errors import ModelError
from penchant.families import _pipeline, sd15, tiny

PROMPTS = ["a red fish", "", "two birds"]


@pytest.fixture(scope="module")
def family(tiny_model):
    return sd15.load(tiny_model)


def latents(number=3):
    return torch.randn((number, 4, 8, 8), generator=torch.Generator().manual_seed(0))


def test_the_forward_is_the_unet_call_of_the_pipeline(family):
    noisy, timestep = latents(), torch.tensor([3, 500, 999])
    condition = family.encode_prompts(PROMPTS)
    unet = family.pipeline.unet
    with torch.no_grad():
        expected = unet(noisy, timestep, encoder_hidden_states=condition["prompt"]).sample
        assert torch.equal(family.denoiser(unet)(noisy, timestep, condition), expected)
        half = family.denoiser(unet, autocast=torch.bfloat16)(noisy, timestep, condition)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.05)


def test_weights_in_half_precision_take_float32_latents(tiny_model):
    family = families.load_folder(tiny_model, dtype=torch.bfloat16)
    condition = family.encode_prompts(PROMPTS)
    assert condition["prompt"].dtype is torch.float32
    with torch.no_grad():
        output = family.denoiser(family.network)(latents(), torch.tensor([3, 500, 999]), condition)
    assert output.dtype is torch.bfloat16 and output.isfinite().all()


def test_prompts_are_encoded_as_the_pipeline_does(family):
    expected, empty = family.pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    found = family.encode_prompts(PROMPTS)["prompt"]
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(found[1:2], empty[:1].detach())


def test_long_prompts_are_cut_and_said_so(family, caplog):
    with caplog.at_level(logging.WARNING, "penchant"):
        found = family.encode_prompts(["x " * 5_000, "short", "x " * 14])
    assert [record.getMessage() for record in caplog.records if record.name.startswith("penchant")] == [
        "1 of 3 prompts are longer than 16 tokens and are cut"
    ]
    torch.testing.assert_close(found["prompt"][0], family.encode_prompts(["x " * 14])["prompt"][0])


def test_the_posterior_is_that_of_the_vae_times_its_scale(family):
    pixels = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, deviation = family.encode_images(pixels)
    with torch.no_grad():
        posterior = family.pipeline.vae.encode(pixels).latent_dist
    scale = family.pipeline.vae.config.scaling_factor
    torch.testing.assert_close(mean, scale * posterior.mean)
    torch.testing.assert_close(deviation, scale * posterior.logvar.exp().sqrt())
    assert mean.shape[1:] == family.sample_shape and family.size == 16


def test_decoding_is_that_of_the_pipeline(family):
    with torch.no_grad():
        expected = family.pipeline(
            prompt_embeds=family.encode_prompts(["x"])["prompt"], latents=latents(1), num_inference_steps=2,
            guidance_scale=1.0, output_type="latent",
        ).images  # fmt: skip
        pixels = family.pipeline.vae.decode(expected / family.pipeline.vae.config.scaling_factor).sample
    processed = family.pipeline.image_processor.postprocess(pixels, output_type="pt")
    torch.testing.assert_close(family.decode(expected), processed)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_target_are_those_of_the_scheduler_config(tmp_path, prediction):
    family = sd15.load(tiny.stable_diffusion(tmp_path / "model", prediction=prediction))
    scheduler, process = family.pipeline.scheduler, family.process
    clean, timestep = latents(), torch.tensor([0, 500, 999])
    noise = latents().flip(0)
    torch.testing.assert_close(
        process.noised(clean, noise, timestep).float(), scheduler.add_noise(clean, noise, timestep),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    expected = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": scheduler.get_velocity(clean, noise, timestep),
    }[prediction]
    torch.testing.assert_close(process.target(clean, noise, timestep).float(), expected, rtol=1e-4, atol=1e-5)


def test_a_scheduler_without_cumulative_alphas_is_refused(tiny_model):
    pipeline = sd15.load_pipeline(tiny_model)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        ModelError, match=r"^scheduler FlowMatchEulerDiscreteScheduler with prediction type 'epsilon'"
    ):
        _pipeline.variance_preserving(pipeline)


def test_nothing_trains_before_it_is_asked_to_and_encoders_leave_memory(tiny_model):
    family = sd15.load(tiny_model)
    for part in (family.pipeline.unet, family.pipeline.vae, family.pipeline.text_encoder):
        assert not part.training and not any(p.requires_grad for p in part.parameters())
    family.release_encoders()
    assert family.pipeline.vae is None and family.pipeline.text_encoder is None
