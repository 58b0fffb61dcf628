"""RankDPO against worked numbers, and against Diffusion-DPO where the two agree."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.slots.scripted import DRAWS, given_errors

from penchant.methods.rank_dpo import METHOD, DiscountedPairs, discounted_gain_gap
from penchant.protocols import Groups
from penchant.shapes.grouping import order
from penchant.slots.compose import step
from penchant.slots.objectives.pairwise import Logistic
from penchant.slots.ratios.denoising import Denoising

PHI, SCORES = (1.0, 0.5, 0.0), (-0.01, 0.0, 0.005)  # s = -h: low is preferred by the policy


def loss_of(objective, changes=SCORES, phi=PHI):
    models, batch, _ = given_errors([[0.1 + s for s in changes]], [[0.1] * len(phi)], score=[list(phi)])
    method = replace(METHOD, objective=objective, ratio=Denoising(scale=1.0, shared_noise=False))
    return step(method, models, batch, DRAWS).loss.item()


def groups(gains, phi, valid=None):
    policy = torch.tensor([gains], dtype=torch.float64)
    return Groups(
        log_policy=policy,
        log_reference=torch.zeros_like(policy),
        score=torch.tensor([phi], dtype=torch.float64),
        valid=None if valid is None else torch.tensor([valid]),
    )


def test_the_worked_weights():
    gap = discounted_gain_gap(torch.tensor([PHI], dtype=torch.float64))[0]
    assert gap[0, 1].item() == pytest.approx(0.311905, abs=1e-6)
    assert gap[0, 2].item() == pytest.approx(0.721348, abs=1e-6)
    assert gap[1, 2].item() == pytest.approx(0.078242, abs=1e-6)
    # by hand: |2^1 - 2^0| * |1 / ln 2 - 1 / ln 4|
    assert gap[0, 2].item() == pytest.approx(1 / math.log(2) - 1 / math.log(4), abs=1e-12)


def test_the_worked_list_through_a_whole_step():
    assert loss_of(DiscountedPairs(beta=100.0)) == pytest.approx(0.280089, abs=1e-6)
    assert loss_of(DiscountedPairs(beta=100.0, reduction="mean")) == pytest.approx(0.093363, abs=1e-6)


def test_the_loss_at_the_reference_is_log_2_times_the_weights():
    resting = loss_of(DiscountedPairs(beta=100.0), changes=(0.0, 0.0, 0.0))
    assert resting == pytest.approx(0.770429, abs=1e-6)
    assert resting == pytest.approx(math.log(2) * (0.311905 + 0.721348 + 0.078242), abs=2e-6)


def test_two_candidates_have_the_constant_discount():
    gap = discounted_gain_gap(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert gap[0, 0, 1].item() == pytest.approx(0.532456, abs=1e-6)


@given(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05), st.floats(1, 500))
def test_two_candidates_with_weight_1_are_diffusion_dpo(winner, loser, beta):
    ranked = DiscountedPairs(beta=beta)(groups([winner, loser], [1.0, 0.0]))
    pair = Logistic(beta=beta)(replace(groups([winner, loser], [1.0, 0.0]), score=None))
    torch.testing.assert_close(ranked / (1 / math.log(2) - 1 / math.log(3)), pair)


@given(st.permutations(range(4)))
def test_the_order_in_which_candidates_come_in_does_not_matter(permutation):
    gains, phi = [0.01, -0.02, 0.005, 0.0], [0.9, 0.6, 0.3, 0.1]
    expected = DiscountedPairs(beta=100.0)(groups(gains, phi))
    gains, phi = [gains[i] for i in permutation], [phi[i] for i in permutation]
    best_first = order(phi)
    sorted_again = groups([gains[i] for i in best_first], [phi[i] for i in best_first])
    torch.testing.assert_close(DiscountedPairs(beta=100.0)(sorted_again), expected)


def test_i_preferred_to_j_is_not_the_larger_index():
    """A wrong sign would train the reversed ranking, with a loss that looks healthy."""
    right = loss_of(DiscountedPairs(beta=100.0))
    assert right < loss_of(DiscountedPairs(beta=100.0), changes=tuple(-s for s in SCORES))
    leaf = torch.zeros((1, 3), dtype=torch.float64, requires_grad=True)
    DiscountedPairs(beta=100.0)(replace(groups([0.0] * 3, PHI), log_policy=leaf)).sum().backward()
    assert leaf.grad[0, 0] < 0 < leaf.grad[0, 2]


def test_ties_cost_nothing():
    tied = DiscountedPairs(beta=100.0)(groups([0.01, -0.01], [0.5, 0.5]))
    assert tied.item() == 0


def test_padding_is_no_candidate():
    plain = DiscountedPairs(beta=100.0, reduction="mean")(groups([0.01, 0.0, -0.005], PHI))
    padded = groups([0.01, 0.0, -0.005, 9.0], (*PHI, 0.7), [True, True, True, False])
    torch.testing.assert_close(DiscountedPairs(beta=100.0, reduction="mean")(padded), plain)


def test_the_sum_over_pairs_by_a_plain_loop():
    gains, phi = [0.02, -0.01, 0.004, 0.0], [1.0, 2 / 3, 1 / 3, 0.0]
    total = 0.0
    for i, j in itertools.combinations(range(4), 2):  # best first: i is preferred to j
        gain = abs(2 ** phi[i] - 2 ** phi[j])
        discount = abs(1 / math.log(2 + i) - 1 / math.log(2 + j))
        total += gain * discount * math.log1p(math.exp(-100 * (gains[i] - gains[j])))
    assert DiscountedPairs(beta=100.0)(groups(gains, phi)).item() == pytest.approx(total, abs=1e-12)


def test_a_beta_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="beta must be > 0, got 0"):
        DiscountedPairs(beta=0.0)
