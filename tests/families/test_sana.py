"""What is peculiar to Sana: the instruction before a prompt, padding, the autoencoder, the scheduler."""

import logging

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from penchant.diffusion.flow import LogitNormalLaw
from penchant.errors import ModelError
from penchant.families import _pipeline, sana, tiny


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return sana.load(tiny.sana(tmp_path_factory.mktemp("model") / "sana"))


def test_an_image_has_one_latent(family):
    assert family.size == 32 and family.sample_shape == (4, 16, 16)
    _, deviation = family.encode_images(torch.zeros(2, 3, 32, 32))
    assert deviation.shape == (2, 4, 16, 16) and (deviation == 0).all()


def test_only_the_empty_prompt_has_no_instruction_and_rows_keep_their_order(family):
    """The window holds the first token and the last 299: the instruction's end, the prompt, and padding."""
    prompts = ["bd", "", "xxxx"]
    together = family.encode_prompts(prompts)
    tokenizer = family.pipeline.tokenizer
    before = len(tokenizer.encode("\n".join(sana.INSTRUCTION)))
    assert together["prompt"].shape == (3, 300, 16)
    cut = before + 298 - 300
    assert together["attended"].sum(1).tolist() == [before + 2 - cut, 0, before + 4 - cut]
    for number, prompt in enumerate(prompts):
        alone = family.encode_prompts([prompt])
        torch.testing.assert_close(together["prompt"][number : number + 1], alone["prompt"])


def test_padding_changes_nothing(family):
    condition = family.encode_prompts(["a fish"])
    other = {
        **condition,
        "prompt": condition["prompt"].where(condition["attended"][..., None] > 0, torch.tensor(3.0)),
    }
    noisy, timestep = torch.randn(1, 4, 16, 16), torch.tensor([400.0])
    denoiser = family.denoiser(family.network)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(noisy, timestep, condition), denoiser(noisy, timestep, other))


def test_a_long_prompt_is_cut_and_said_so(family, caplog):
    with caplog.at_level(logging.WARNING, "penchant"):
        family.encode_prompts(["x" * 298, "x" * 299])
    (record,) = [record for record in caplog.records if record.name.startswith("penchant")]
    assert record.getMessage().startswith("1 of 2 prompts are longer than ")


@pytest.mark.parametrize(
    ("scheduler", "shift"),
    [
        (
            DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
            ),
            5,
        ),
        (FlowMatchEulerDiscreteScheduler(shift=2.0), 2),
        (DPMSolverMultistepScheduler(), None),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), None),
    ],
)
def test_the_shift_is_that_of_the_scheduler_config(family, scheduler, shift):
    class Pipeline:
        pass

    pipeline = Pipeline()
    pipeline.scheduler = scheduler
    if shift is None:
        with pytest.raises(ModelError, match=r"^scheduler DPMSolverMultistepScheduler: not supported"):
            _pipeline.rectified_flow(pipeline, LogitNormalLaw(), num_tokens=16)
    else:
        assert _pipeline.rectified_flow(pipeline, LogitNormalLaw(), num_tokens=16).shift == shift
