"""What is peculiar to the refiner of SDXL: the aesthetic score, its part of the noise scale, its class."""

import json
import shutil

import diffusers
import pytest
import torch
from tests import small

from penchant import families
from penchant.data.rows import Candidate
from penchant.errors import ModelError
from penchant.families import sdxl_refiner, tiny
from penchant.protocols import Framing
from penchant.randomness import Randomness
from penchant.runs.noise import process_of
from penchant.runs.schema import Noise
from penchant.training.encode import Group, Preparation, encode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.stable_diffusion_xl_refiner(tmp_path_factory.mktemp("model") / "refiner")


@pytest.fixture(scope="module")
def family(folder):
    return sdxl_refiner.load(folder)


def test_both_halves_of_guidance_are_the_prompt_and_no_prompt_of_training(family, folder):
    """Prompt, pooled embedding and time ids of the pipeline's guided and unguided half, seen by a hook."""
    pipeline, calls = diffusers.DiffusionPipeline.from_pretrained(folder), []
    pipeline.set_progress_bar_config(disable=True)
    told = {"original_size": (30, 40), "crops_coords_top_left": (1, 2)}
    told |= {f"negative_{name}": value for name, value in told.items()}
    pipeline.unet.register_forward_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipeline("a fish", image=latents, denoising_start=0.8, num_inference_steps=5, guidance_scale=5.0, **told)
    ((noisy, timestep), named, (output,)) = calls[0]
    assert named["added_cond_kwargs"]["time_ids"].tolist() == [[30, 40, 1, 2, 2.5], [30, 40, 1, 2, 6.0]]
    framing = Framing(original=(30, 40), crop=(1, 2), size=(16, 16))
    condition = {**family.encode_prompts(["", "a fish"]), **family.image_conditions([framing] * 2)}
    with torch.no_grad():
        found = family.denoiser(family.network)(noisy, timestep.expand(2), condition)
    torch.testing.assert_close(found, output, rtol=1e-5, atol=1e-5)


def test_a_prompt_that_is_dropped_takes_its_score_along(family):
    """40 x 20 becomes 32 x 16, whose window starts at 8."""
    photo = Candidate(image=small.picture(0, 100, width=40, height=20))
    groups = [Group(id=str(number), prompt="x", candidates=[photo, photo]) for number in range(2)]
    encoded = encode(groups, family, Preparation(sizes=((16, 16),)))
    for dropout, score in ((0.0, 6.0), (1.0, 2.5)):
        batch = encoded.batch([0, 1], Randomness(run=0), prompt_dropout=dropout)
        assert batch.condition["score"].tolist() == [[[score]]] * 2
        assert batch.condition["framing"].tolist() == [[[20, 40, 0, 8]] * 2] * 2


def test_it_is_trained_on_the_last_fifth_of_the_denoising_unless_the_run_says_otherwise(family):
    quantiles = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert family.process.timestep(quantiles).tolist() == [0, 100, 199]
    other = process_of(family.process, Noise(timesteps=[50, 300]), where="run.yaml")
    assert other.timestep(quantiles).tolist() == [50, 300, 300]


def test_another_model_in_a_pipeline_from_image_to_image_is_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"requires_aesthetics_score": False}))
    with pytest.raises(ModelError) as caught:
        families.load(str(other))
    assert str(caught.value) == (
        f"model: {other}: a StableDiffusionXLImg2ImgPipeline without requires_aesthetics_score or without "
        "text_encoder_2 in model_index.json, so it is not the refiner. Give the refiner, or the base model "
        "as a StableDiffusionXLPipeline."
    )
