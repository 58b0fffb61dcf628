"""What is peculiar to Stable Diffusion 3: a T5 that may be absent, the shift, other schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline
from tests import small

from penchant.diffusion.flow import LogitNormalLaw
from penchant.errors import CompositionError, ConfigError, ModelError
from penchant.families import _pipeline, family_of, resolve, sd3, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.stable_diffusion_3(tmp_path_factory.mktemp("model") / "sd3", t5=False)


def test_without_a_t5_its_states_are_zero_as_in_the_pipeline(folder):
    assert resolve(str(folder)) == folder and family_of(folder) is sd3
    plain = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    with torch.no_grad():
        prompt, empty, pooled, _ = plain.encode_prompt(["a red fish"], None, None)
    found = sd3.load(folder).encode_prompts(["a red fish", ""])
    torch.testing.assert_close(found["prompt"], torch.cat([prompt, empty]))
    torch.testing.assert_close(found["pooled"][:1], pooled)
    assert found["prompt"].shape == (2, 16 + 256, 32) and (found["prompt"][:, 16:] == 0).all()


def test_the_shift_is_that_of_the_scheduler_config(folder):
    """3 * 0.5 / (1 + 2 * 0.5) = 0.75."""
    process = sd3.load(folder).process
    assert process.timestep(torch.tensor([0.5])).item() == pytest.approx(750)


def test_another_scheduler_is_refused(folder):
    pipeline = sd3.load_pipeline(folder)
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match=r"^scheduler DDIMScheduler: not supported for this model"):
        _pipeline.rectified_flow(pipeline, LogitNormalLaw(), num_tokens=16)


@pytest.fixture
def options(folder, tiny_pairs, tmp_path):
    return lambda **changes: small.run_options(folder, tiny_pairs, tmp_path / "out", changes)


def test_a_size_that_does_not_fit_the_patches_is_refused(options):
    with pytest.raises(ConfigError) as caught:
        small.assembled(options(**{"data.size": 18}))
    assert str(caught.value) == "run.yaml: data.size: must be a multiple of 4 for this model, got 18."


def test_a_method_that_samples_by_ddim_is_refused(options, folder):
    stored = dict.fromkeys(["training.batch_size", "training.micro_batch_size"], small.REMOVED)
    held_out = dict.fromkeys(["training.heldout_every", "training.heldout_draws"], small.REMOVED)
    changes = {"method": "d3po", "objective": {}, "online": {"reward": "colourfulness"}}
    with pytest.raises(CompositionError) as caught:
        small.assembled(options(**changes, **stored, **held_out))
    assert str(caught.value) == (
        f"run.yaml: method 'd3po' samples by DDIM, which does not fit the flow model '{folder}'. Take a "
        "method for stored data."
    )
