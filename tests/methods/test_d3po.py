"""D3PO: the published clamp, its bounds, and one worked step of a trajectory."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import DRAWS, EPSILON

from penchant.diffusion.samplers import DDIM
from penchant.methods.d3po import METHOD, ClippedLogistic
from penchant.protocols import Groups, Models, StepBatch
from penchant.slots.compose import step
from penchant.slots.ratios.stepwise import Stepwise

log_ratios = st.floats(-0.5, 0.5)


def groups(winner, loser, score=None):
    policy = torch.tensor([[winner, loser]], dtype=torch.float64, requires_grad=True)
    return Groups(
        log_policy=policy,
        log_reference=torch.zeros((1, 2), dtype=torch.float64),
        score=None if score is None else torch.tensor([score], dtype=torch.float64),
    )


def loss_of(winner, loser, score=None, **options):
    return ClippedLogistic(**{"beta": 0.1, **options})(groups(winner, loser, score)).item()


def test_the_loss_at_the_reference_and_at_a_tie_is_log_2():
    assert loss_of(0.0, 0.0) == pytest.approx(math.log(2), abs=1e-12)
    assert loss_of(0.05, -0.03, score=(1.0, 1.0)) == pytest.approx(math.log(2), abs=1e-12)


def test_a_tie_pulls_nowhere():
    tied = groups(0.05, -0.03, (0.0, 0.0))
    ClippedLogistic(beta=0.1)(tied).sum().backward()
    assert tied.log_policy.grad.abs().sum().item() == 0


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_published_bounds(winner, loser):
    # margin within +-(log 1.1 - log 0.9) = +-0.200671, so at beta 0.1 the loss is in [0.683164, 0.703231]
    assert math.log(1.1) - math.log(0.9) == pytest.approx(0.200671, abs=1e-6)
    assert 0.683164 - 1e-6 <= loss_of(winner, loser) <= 0.703231 + 1e-6


def test_the_bounds_are_reached():
    assert loss_of(9.0, -9.0) == pytest.approx(0.683164, abs=1e-6)
    assert loss_of(-9.0, 9.0) == pytest.approx(0.703231, abs=1e-6)


@given(log_ratios, log_ratios)
def test_the_formula_of_the_released_code(winner, loser):
    rho = [min(max(math.exp(h), 0.9), 1.1) for h in (winner, loser)]
    expected = math.log1p(math.exp(-0.1 * (math.log(rho[0]) - math.log(rho[1]))))
    assert loss_of(winner, loser) == pytest.approx(expected, abs=1e-12)


@given(log_ratios, log_ratios)
def test_swapping_costs_beta_times_the_clamped_margin(winner, loser):
    low, high = math.log(0.9), math.log(1.1)
    margin = min(max(winner, low), high) - min(max(loser, low), high)
    assert loss_of(loser, winner) - loss_of(winner, loser) == pytest.approx(0.1 * margin, abs=1e-12)


def test_beyond_the_window_the_gradient_is_exactly_zero():
    outside = groups(0.3, 0.01)
    ClippedLogistic(beta=0.1)(outside).sum().backward()
    assert outside.log_policy.grad[0, 0].item() == 0
    assert outside.log_policy.grad[0, 1].item() > 0


def test_two_ratios_beyond_the_same_edge_are_stuck_at_log_2():
    stuck = groups(0.4, 0.3)
    loss = ClippedLogistic(beta=0.1)(stuck)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert stuck.log_policy.grad.abs().sum().item() == 0


class GivenNoise:
    """A denoiser that always predicts the same noise."""

    process = EPSILON

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, noisy, timestep, condition):
        return torch.full_like(noisy, 1.0) * self.noise


def test_one_step_worked_by_hand():
    """SD schedule, t = 481 -> 431, eta 1: the policy's density is the spec's, the reference's by hand."""
    batch = StepBatch(
        ids=("a",),
        state=torch.full((1, 2, 1, 1, 1), 0.5, dtype=torch.float64),
        action=torch.tensor([0.9, 0.6], dtype=torch.float64).reshape(1, 2, 1, 1, 1),
        timestep=torch.tensor([481]),
        next_timestep=torch.tensor([431]),
        condition={},
        unconditional={},
    )
    ratio = Stepwise(sampler=DDIM(guidance=1.0))
    method = replace(METHOD, ratio=ratio, objective=ClippedLogistic(beta=0.1, clip=0.9))
    models = Models(policy=GivenNoise(-0.25), reference=GivenNoise(-0.20))

    def density(noise, action):
        alpha, alpha_next, sigma = 0.3022957, 0.3757850, 0.4182865
        clean = (0.5 - math.sqrt(1 - alpha) * noise) / math.sqrt(alpha)
        mean = math.sqrt(alpha_next) * clean + math.sqrt(1 - alpha_next - sigma**2) * noise
        return -((action - mean) ** 2) / (2 * sigma**2) - math.log(sigma) - 0.5 * math.log(2 * math.pi)

    assert density(-0.25, 0.9) == pytest.approx(-0.2670452, abs=1e-6)
    groups = ratio(models, batch, DRAWS)
    assert groups.log_policy[0].tolist() == pytest.approx([-0.2670452, density(-0.25, 0.6)], abs=1e-6)
    assert groups.log_reference[0].tolist() == pytest.approx(
        [density(-0.20, 0.9), density(-0.20, 0.6)], abs=1e-6
    )
    margin = (density(-0.25, 0.9) - density(-0.20, 0.9)) - (density(-0.25, 0.6) - density(-0.20, 0.6))
    loss = step(method, models, batch, DRAWS).loss.item()
    assert loss == pytest.approx(math.log1p(math.exp(-0.1 * margin)), abs=1e-7)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"clip must be in \(0, 1\), got 1"):
        ClippedLogistic(beta=0.1, clip=1.0)
    with pytest.raises(ValueError, match="beta must be > 0, got 0"):
        ClippedLogistic(beta=0.0)
