"""Conversions between eps, x0 and v."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penchant.diffusion.prediction import clean_and_noise, target

KINDS = ["epsilon", "v_prediction", "sample"]
numbers = st.floats(-3, 3)


def f64(value):
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@given(numbers, numbers, st.floats(0.01, 0.99))
def test_a_network_that_hits_its_target_gives_back_clean_sample_and_noise(kind, clean, noise, alpha):
    signal, scale = f64(math.sqrt(alpha)), f64(math.sqrt(1 - alpha))
    noisy = signal * f64(clean) + scale * f64(noise)
    output = target(kind, f64(clean), f64(noise), signal, scale)
    back = clean_and_noise(kind, output, noisy, signal, scale)
    assert back[0].item() == pytest.approx(clean, abs=1e-10)
    assert back[1].item() == pytest.approx(noise, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@given(numbers, numbers, st.floats(0.01, 0.99))
def test_the_estimates_always_explain_the_noisy_sample(kind, output, noisy, alpha):
    signal, scale = math.sqrt(alpha), math.sqrt(1 - alpha)
    clean, noise = clean_and_noise(kind, f64(output), f64(noisy), f64(signal), f64(scale))
    assert signal * clean.item() + scale * noise.item() == pytest.approx(noisy, abs=1e-9)


def test_v_by_hand():
    # signal 0.6, noise scale 0.8: v = 0.6 * 2 - 0.8 * 1 = 0.4
    assert target("v_prediction", f64(1.0), f64(2.0), f64(0.6), f64(0.8)).item() == pytest.approx(0.4)
    assert target("epsilon", f64(1.0), f64(2.0), f64(0.6), f64(0.8)).item() == 2.0
    assert target("sample", f64(1.0), f64(2.0), f64(0.6), f64(0.8)).item() == 1.0


@given(numbers, numbers, numbers, st.floats(0.01, 0.99))
def test_the_epsilon_error_is_abar_times_the_v_error(clean, noise, wrong, alpha):
    signal, scale = f64(math.sqrt(alpha)), f64(math.sqrt(1 - alpha))
    noisy = signal * f64(clean) + scale * f64(noise)
    v = target("v_prediction", f64(clean), f64(noise), signal, scale)
    _, estimate = clean_and_noise("v_prediction", v + wrong, noisy, signal, scale)
    assert (estimate.item() - noise) ** 2 == pytest.approx(alpha * wrong**2, abs=1e-10)


def test_the_worked_errors():
    # err_v = 0.04 at abar = 0.276333
    assert pytest.approx(0.011053, abs=1e-6) == 0.276333 * 0.04
    signal, scale = f64(math.sqrt(0.276333)), f64(math.sqrt(1 - 0.276333))
    _, estimate = clean_and_noise("v_prediction", f64(0.2), f64(0.0), signal, scale)
    assert estimate.item() ** 2 == pytest.approx(0.011053, abs=1e-6)
