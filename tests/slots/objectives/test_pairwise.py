"""Laws of the margin objectives, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import log_sigmoid

from penchant.protocols import Groups
from penchant.slots.objectives.pairwise import (
    Hinge,
    Logistic,
    Squared,
    hinge_loss,
    logistic_loss,
    pair_margin,
    squared_loss,
)

margins = st.floats(-20, 20)
betas = st.floats(0.01, 10)
noises = st.floats(0, 0.49)
LOSSES = [logistic_loss, hinge_loss, squared_loss]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@given(margins, betas)
def test_swapping_winner_and_loser_costs_beta_times_the_margin(margin, beta):
    m = f64(margin)
    torch.testing.assert_close(logistic_loss(m, beta=beta) - logistic_loss(-m, beta=beta), -beta * m)


@given(margins, betas)
def test_logistic_is_minus_log_sigmoid(margin, beta):
    # torch's softplus is linear beyond 20, which leaves out at most exp(-20)
    expected = -log_sigmoid(beta * margin)
    assert logistic_loss(f64(margin), beta=beta).item() == pytest.approx(expected, abs=1e-8)


@given(margins, betas, noises)
def test_label_smoothing_mixes_the_loss_with_its_swap(margin, beta, noise):
    m = f64(margin)
    mixed = (1 - noise) * logistic_loss(m, beta=beta) + noise * logistic_loss(-m, beta=beta)
    torch.testing.assert_close(logistic_loss(m, beta=beta, label_smoothing=noise), mixed)


def test_label_smoothing_stops_the_margin_at_the_log_odds():
    # minimum of cDPO at e = 0.1: z = log(0.9 / 0.1) = 2.197225, value 0.325083
    z = f64(2.197225).requires_grad_()
    loss = logistic_loss(z, beta=1.0, label_smoothing=0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.325083, abs=1e-6)
    assert z.grad.item() == pytest.approx(0, abs=1e-6)


@given(margins, st.floats(0.001, 5), betas)
def test_logistic_and_hinge_fall_with_the_margin(margin, rise, beta):
    low, high = f64(margin), f64(margin + rise)
    assert logistic_loss(high, beta=beta).item() < logistic_loss(low, beta=beta).item()
    assert hinge_loss(high, beta=beta).item() <= hinge_loss(low, beta=beta).item()


@given(margins, betas)
def test_squared_has_its_minimum_at_1_over_2_beta(margin, beta):
    goal = 1 / (2 * beta)
    assert squared_loss(f64(goal), beta=beta).item() == pytest.approx(0, abs=1e-18)
    assert squared_loss(f64(goal + margin), beta=beta).item() == pytest.approx(margin**2, abs=1e-9)


def test_values_at_margin_zero():
    zero = f64(0.0)
    assert logistic_loss(zero, beta=3.0, label_smoothing=0.3).item() == pytest.approx(math.log(2), abs=1e-15)
    assert hinge_loss(zero, beta=3.0).item() == 1
    assert squared_loss(zero, beta=0.1).item() == pytest.approx(25.0, abs=1e-12)


@given(margins, betas)
def test_gradients_are_the_closed_forms_and_the_finite_differences(margin, beta):
    closed = {
        logistic_loss: -beta * math.exp(log_sigmoid(-beta * margin)),
        hinge_loss: -beta if beta * margin < 1 else 0.0,
        squared_loss: 2 * (margin - 1 / (2 * beta)),
    }
    for loss, expected in closed.items():
        m = f64(margin).requires_grad_()
        loss(m, beta=beta).sum().backward()
        assert m.grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        width = 1e-6
        ahead, behind = loss(f64(margin + width), beta=beta), loss(f64(margin - width), beta=beta)
        if loss is hinge_loss and abs(1 - beta * margin) < 1e-4:
            continue  # at the kink
        assert ((ahead - behind) / (2 * width)).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_margins_are_promoted(loss, dtype):
    assert loss(torch.tensor([0.5], dtype=dtype), beta=2.0).dtype is torch.float32


def test_logistic_is_finite_far_out():
    far = logistic_loss(f64(-1e4, 1e4), beta=1.0)
    assert far.tolist() == [1e4, 0.0]


def test_column_0_is_the_winner_and_a_constant_cancels():
    policy, reference = f64(1.0, -2.0)[None], f64(0.5, -0.5)[None]
    assert pair_margin(Groups(log_policy=policy, log_reference=reference)).item() == pytest.approx(2.0)
    shifted = Groups(log_policy=policy + 7, log_reference=reference)
    assert pair_margin(shifted).item() == pytest.approx(2.0)


@pytest.mark.parametrize("slot", [Logistic(beta=2.0), Hinge(beta=2.0), Squared(beta=2.0)])
def test_a_tie_has_margin_0_and_no_gradient(slot):
    policy = f64(1.0, -1.0)[None].requires_grad_()
    tied = Groups(log_policy=policy, log_reference=torch.zeros_like(policy), score=f64(0.5, 0.5)[None])
    loss = slot(tied)
    loss.sum().backward()
    resting = Groups(log_policy=torch.zeros_like(policy), log_reference=torch.zeros_like(policy))
    torch.testing.assert_close(loss.detach(), slot(resting))
    assert policy.grad.abs().sum().item() == 0


@pytest.mark.parametrize("slot", [Logistic, Hinge, Squared])
def test_a_beta_that_is_not_positive_is_refused(slot):
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta must be > 0, got"):
            slot(beta=beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, 1.0])
def test_label_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 0.5\), got"):
        Logistic(beta=1.0, label_smoothing=smoothing)
