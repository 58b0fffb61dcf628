"""Section `noise` of a run file: what it changes of the model's noise process, and what it refuses."""

import pytest
import torch
from tests import small
from tests.slots.scripted import SD_ALPHAS

from penchant.diffusion.flow import RectifiedFlow, UniformLaw
from penchant.diffusion.schedule import VariancePreserving
from penchant.errors import PenchantError
from penchant.runs.noise import process_of
from penchant.runs.schema import Noise

SD = VariancePreserving(alphas_cumprod=SD_ALPHAS, prediction="epsilon")
FLOW = RectifiedFlow(law=UniformLaw(), shift=2.0)


def test_left_out_it_changes_nothing():
    assert process_of(SD, Noise(), where="run.yaml") is SD
    assert process_of(FLOW, Noise(), where="run.yaml") is FLOW


def test_the_four_timesteps_of_a_distilled_model():
    process = process_of(SD, Noise(timesteps=[249, 499, 749, 999]), where="run.yaml")
    quantiles = torch.tensor([0.0, 0.2499, 0.25, 0.6, 0.75, 1 - 2**-24])
    assert process.timestep(quantiles).tolist() == [249, 249, 499, 749, 999, 999]
    assert process.log_snr(torch.tensor([249])) == SD.log_snr(torch.tensor([249]))


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_start():
    process = process_of(SD, Noise(zero_terminal_snr=True), where="run.yaml")
    alphas = process.alphas_cumprod
    assert alphas[-1].item() == 0 and alphas[0].item() == pytest.approx(SD_ALPHAS[0].item(), rel=1e-12)
    # by hand at t = 500: sqrt(abar) 0.5261686, first 0.9995749, last 0.0682649
    root, first, last = (SD_ALPHAS[t].item() ** 0.5 for t in (500, 0, 999))
    assert alphas[500].item() == pytest.approx(((root - last) * first / (first - last)) ** 2, rel=1e-12)
    assert (alphas.diff() < 0).all()


def test_the_shift_of_a_flow():
    process = process_of(FLOW, Noise(shift=4.0), where="run.yaml")
    assert process.timestep(torch.tensor([0.5])).item() == pytest.approx(800)  # 4 * 0.5 / (1 + 3 * 0.5)


@pytest.mark.parametrize(
    ("process", "noise", "sentence"),
    [
        (
            FLOW,
            Noise(timesteps=[1]),
            "run.yaml: noise.timesteps: the model is a flow model, which takes `shift`. Remove "
            "noise.timesteps.",
        ),
        (
            SD,
            Noise(shift=1.0),
            "run.yaml: noise.shift: the model is not a flow model; it takes `timesteps` and "
            "`zero_terminal_snr`. Remove noise.shift.",
        ),
        (
            SD,
            Noise(timesteps=[3, 1000]),
            "run.yaml: noise.timesteps: must be < 1000, the model's timesteps, got 1000.",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(process, noise, sentence):
    with pytest.raises(PenchantError) as error:
        process_of(process, noise, where="run.yaml")
    assert str(error.value) == sentence


def test_importance_does_not_fit_a_mean_over_the_batch(options):
    with pytest.raises(
        PenchantError, match="importance does not fit method 'diffusion-kto', whose objective"
    ):
        small.assembled(options(method="diffusion-kto", **{"noise.draw": "importance"}))


def test_a_method_that_samples_does_not_read_it(options):
    changes = {"online.reward": "colourfulness", "noise.draw": "stratified", "objective": {}}
    small_run = options(
        method="d3po", **changes, **{name: small.REMOVED for name in ("training.batch_size",)}
    )
    small_run["training"] = {"steps": 1}
    with pytest.raises(
        PenchantError, match="noise: a method that samples the model is trained on the sampler"
    ):
        small.assembled(small_run)


def test_a_run_is_trained_on_the_timesteps_it_names(options):
    parts = small.assembled(options(**{"noise.timesteps": [40, 30], "noise.zero_terminal_snr": True}))
    assert parts.models.policy.process.trained == parts.models.reference.process.trained == (30, 40)
    assert parts.models.policy.process.alphas_cumprod[-1].item() == 0
