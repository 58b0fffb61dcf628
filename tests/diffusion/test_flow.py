"""The straight way from data to noise, and the laws of the noise level, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from penchant.diffusion.flow import LogitNormalLaw, RectifiedFlow, UniformLaw, shift_for
from penchant.protocols import NoiseProcess

PLAIN = RectifiedFlow(law=UniformLaw())
CLEAN, NOISE = torch.tensor([[2.0, -1.0]]), torch.tensor([[-2.0, 3.0]])


def quantiles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_it_is_a_noise_process():
    assert isinstance(PLAIN, NoiseProcess)


def test_a_quarter_of_the_way_by_hand():
    """s = 0.25: 0.75 * 2 + 0.25 * (-2) = 1, 0.75 * (-1) + 0.25 * 3 = 0; velocity -2 - 2 and 3 + 1."""
    timestep = torch.tensor([250.0])
    assert PLAIN.noised(CLEAN, NOISE, timestep).tolist() == [[1.0, 0.0]]
    assert PLAIN.target(CLEAN, NOISE, timestep).tolist() == [[-4.0, 4.0]]
    assert PLAIN.time(timestep).tolist() == [0.25]
    assert PLAIN.log_snr(timestep).item() == pytest.approx(2 * math.log(3), abs=1e-6)


@given(st.floats(1, 999), st.floats(-3, 3), st.floats(-3, 3))
def test_from_any_point_the_velocity_leads_to_data_and_noise(t, x, e):
    clean, noise = torch.tensor([[x]], dtype=torch.float64), torch.tensor([[e]], dtype=torch.float64)
    timestep = torch.tensor([t])
    noisy, velocity = PLAIN.noised(clean, noise, timestep), PLAIN.target(clean, noise, timestep)
    s = PLAIN.time(timestep.double())
    torch.testing.assert_close(noisy - s * velocity, clean)
    torch.testing.assert_close(noisy + (1 - s) * velocity, noise)


def test_the_ends_are_finite():
    timestep = torch.tensor([0.0, 1000.0])
    assert PLAIN.log_snr(timestep).tolist() == [20, -20]
    for law in (UniformLaw(), LogitNormalLaw()):
        drawn = RectifiedFlow(law=law, shift=3.0).timestep(quantiles(0.0, 1.0))
        assert drawn.isfinite().all() and (drawn > 0).all() and (drawn <= 1000).all()


def test_the_uniform_law_is_its_quantile():
    assert PLAIN.timestep(quantiles(0.125, 0.5)).tolist() == [125, 500]


def test_the_logit_normal_law_by_hand():
    """Normal quantiles: 0 at 0.5, 1 at 0.841345, -1 at 0.158655; sigmoid(1) = 0.731059."""
    flow = RectifiedFlow(law=LogitNormalLaw())
    found = flow.timestep(quantiles(0.5, norm.cdf(1), norm.cdf(-1)))
    assert found.tolist() == pytest.approx([500, 731.0586, 268.9414], abs=1e-3)
    other = RectifiedFlow(law=LogitNormalLaw(mean=1.0, deviation=2.0))
    assert other.timestep(quantiles(0.5, norm.cdf(1))).tolist() == pytest.approx(
        [731.0586, 952.5741], abs=1e-3
    )


@pytest.mark.parametrize("law", [UniformLaw(), LogitNormalLaw(mean=0.3, deviation=1.4)])
@given(a=st.floats(0, 1), b=st.floats(0, 1), shift=st.floats(0.5, 5))
def test_timesteps_rise_with_the_quantile(law, a, b, shift):
    low, high = RectifiedFlow(law=law, shift=shift).timestep(quantiles(min(a, b), max(a, b)))
    assert low <= high


def test_the_shift_by_hand():
    """3 * 0.5 / (1 + 2 * 0.5) = 0.75; shifting by 3 and then by 1/3 changes nothing."""
    assert RectifiedFlow(law=UniformLaw(), shift=3.0).timestep(quantiles(0.5)).item() == 750
    back = RectifiedFlow(law=UniformLaw(), shift=1 / 3).timestep(quantiles(0.75))
    assert back.item() == pytest.approx(500, abs=1e-3)


def test_the_shift_by_resolution_by_hand():
    """In the middle of 256 and 4096 tokens: exp((0.5 + 1.15) / 2) = exp(0.825) = 2.281881."""
    known = {"base_tokens": 256, "max_tokens": 4096, "base_shift": 0.5, "max_shift": 1.15}
    assert shift_for(256, **known) == pytest.approx(math.exp(0.5))
    assert shift_for(4096, **known) == pytest.approx(3.158193, abs=1e-6)
    assert shift_for(2176, **known) == pytest.approx(2.281881, abs=1e-6)


@pytest.mark.parametrize(
    "build", [lambda: RectifiedFlow(law=UniformLaw(), shift=0.0), lambda: LogitNormalLaw(deviation=0.0)]
)
def test_senseless_options_are_refused(build):
    with pytest.raises(ValueError, match="must be > 0"):
        build()
