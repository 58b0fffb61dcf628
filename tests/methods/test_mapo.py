"""MaPO, as its released code computes it, against worked numbers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.slots.scripted import DRAWS, finite_differences, given_errors

from penchant.methods.mapo import METHOD, WinnerAndMargin, squashed
from penchant.slots.compose import step

errors = st.floats(1e-3, 2.0)


def loss_of(winner, loser, objective=None):
    models, batch, _ = given_errors([[winner, loser]])
    return step(replace(METHOD, objective=objective or METHOD.objective), models, batch, DRAWS).loss.item()


def phi(error, squash=0.5):
    return squashed(torch.tensor([error], dtype=torch.float64), squash=squash).item()


def test_the_worked_pair_through_a_whole_step():
    assert phi(0.10) == pytest.approx(0.975208, abs=1e-6)
    assert phi(0.12) == pytest.approx(0.970300, abs=1e-6)
    margin = 1000 * (phi(0.10) - phi(0.12))
    assert math.log1p(math.exp(-margin)) == pytest.approx(0.007358, abs=1e-6)
    assert loss_of(0.10, 0.12) == pytest.approx(0.100736, abs=1e-6)


def test_equal_errors_cost_the_error_and_a_tenth_of_log_2():
    assert loss_of(0.10, 0.10) == pytest.approx(0.169315, abs=1e-6)


def test_phi_at_zero_is_1_with_slope_minus_half_s():
    """The literal form s l / (exp(s l) - 1) is 0 / 0 there."""
    at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = squashed(at_zero, squash=0.5)
    value.sum().backward()
    assert value.item() == 1
    assert at_zero.grad.item() == pytest.approx(-0.25, abs=1e-12)
    assert phi(1e-12) == pytest.approx(1 - 0.25e-12, abs=1e-15)


@given(st.floats(1e-6, 20), st.floats(1e-6, 20))
def test_phi_decreases_within_0_and_1(one, other):
    low, high = sorted((one, other))
    assert 0 < phi(high) <= phi(low) <= 1


@given(errors)
def test_the_slope_of_phi_is_the_exact_derivative_and_not_the_papers_factor(error):
    leaf = torch.tensor([error], dtype=torch.float64, requires_grad=True)
    squashed(leaf, squash=1.0).sum().backward()
    k = error
    exact = -(k * math.exp(k) - math.exp(k) + 1) / math.expm1(k) ** 2
    assert leaf.grad.item() == pytest.approx(exact, rel=1e-6, abs=1e-6)


@settings(max_examples=12)
@given(errors, errors)
def test_gradient_is_the_finite_difference_and_lowers_the_winners_error(winner, loser):
    objective = WinnerAndMargin(sharpness=10.0)
    models, batch, leaf = given_errors([[winner, loser]])
    step(replace(METHOD, objective=objective), models, batch, DRAWS).loss.backward()
    assert leaf.grad[0, 0] > 0 > leaf.grad[0, 1]
    numeric = finite_differences(
        lambda p: torch.tensor(loss_of(*p[0].tolist(), objective), dtype=torch.float64), leaf.detach()
    )
    torch.testing.assert_close(numeric, leaf.grad, rtol=1e-4, atol=1e-6)


def test_a_constant_added_to_both_errors_changes_the_loss():
    """Unlike the DPO family: there is no reference to cancel it, and phi is curved."""
    assert loss_of(0.20, 0.22) - 0.10 != pytest.approx(loss_of(0.10, 0.12), abs=1e-5)


def test_no_reference_is_called():
    assert not METHOD.needs_reference
    models, batch, _ = given_errors([[0.10, 0.12]])
    assert models.reference is None
    measured = step(METHOD, models, batch, DRAWS).measured
    assert "error/winner_change" not in measured
    assert measured["margin/mean"].item() == pytest.approx(0.02, abs=1e-7)  # err_l - err_w, in scale 1


def test_options_that_are_not_positive_are_refused():
    for name in ("weight", "sharpness", "squash"):
        with pytest.raises(ValueError, match=f"{name} must be > 0, got 0"):
            WinnerAndMargin(**{name: 0.0})


def test_large_errors_have_a_gradient_in_float32():
    """exp(s l) overflows from s l = 88 on."""
    error = torch.tensor([200.0, 0.0], requires_grad=True)
    squashed(error, squash=0.5).sum().backward()
    assert error.grad.tolist() == pytest.approx([0, -0.25], abs=1e-30)
