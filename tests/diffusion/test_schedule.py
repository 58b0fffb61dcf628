"""The noise process against the published schedule of Stable Diffusion."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import SD_ALPHAS

from penchant.diffusion.schedule import VariancePreserving, scaled_linear_alphas
from penchant.protocols import NoiseProcess

SD = VariancePreserving(alphas_cumprod=SD_ALPHAS, prediction="epsilon")


def test_the_published_alphas():
    assert SD_ALPHAS.dtype is torch.float64
    assert SD_ALPHAS[481].item() == pytest.approx(0.3022957, abs=1e-7)
    assert SD_ALPHAS[431].item() == pytest.approx(0.3757850, abs=1e-7)
    assert (SD_ALPHAS.diff() < 0).all()


def test_the_betas_are_linear_in_their_root():
    alphas = scaled_linear_alphas(5, 0.01, 0.09)  # roots 0.1, 0.15, 0.2, 0.25, 0.3
    product = 1.0
    for alpha, root in zip(alphas.tolist(), (0.1, 0.15, 0.2, 0.25, 0.3), strict=True):
        product *= 1 - root**2
        assert alpha == pytest.approx(product, rel=1e-12)


def test_it_is_a_noise_process():
    assert isinstance(SD, NoiseProcess)
    assert SD.num_timesteps == 1000


@given(st.floats(0, 1, exclude_max=True, width=32))
def test_the_timestep_law_is_uniform_over_the_integers(quantile):
    timestep = SD.timestep(torch.tensor([quantile]))
    assert timestep.dtype is torch.int64
    assert timestep.item() == math.floor(quantile * 1000)
    assert SD.time(timestep).item() == pytest.approx(timestep.item() / 1000)


def test_the_edges_of_the_timestep_law():
    edges = torch.tensor([0.0, 1 - 2**-24])
    assert SD.timestep(edges).tolist() == [0, 999]


def test_log_snr_and_its_clamp():
    steps = torch.tensor([0, 481, 999])
    expected = [math.log(a / (1 - a)) for a in SD_ALPHAS[steps].tolist()]
    assert SD.log_snr(steps).tolist() == pytest.approx(expected, rel=1e-6)
    to_zero = VariancePreserving(alphas_cumprod=torch.tensor([1.0, 0.5, 0.0]), prediction="v_prediction")
    assert to_zero.log_snr(torch.tensor([0, 1, 2])).tolist() == [20.0, 0.0, -20.0]


@given(st.integers(0, 999), st.floats(-3, 3), st.floats(-3, 3))
def test_noising_keeps_variance_and_is_undone(step, clean, noise):
    timestep = torch.tensor([step])
    x0 = torch.tensor([[clean]], dtype=torch.float64)
    eps = torch.tensor([[noise]], dtype=torch.float64)
    alpha = SD_ALPHAS[step].item()
    noisy = SD.noised(x0, eps, timestep)
    assert noisy.item() == pytest.approx(math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise, abs=1e-12)
    back, again = SD.clean_and_noise(eps, noisy, timestep)
    assert back.item() == pytest.approx(clean, abs=1e-9)
    assert again.item() == noise


def test_the_dtype_of_the_sample_is_kept():
    for dtype in (torch.float32, torch.float64):
        ones = torch.ones((2, 3), dtype=dtype)
        assert SD.noised(ones, ones, torch.tensor([1, 2])).dtype is dtype
