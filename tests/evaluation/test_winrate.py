"""Win-rate, share and effect size: laws, values worked by hand, and scipy as independent computation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penchant.errors import DataError
from penchant.evaluation.intervals import bootstrap_interval, mean_estimate, prompt_index, wilson_interval
from penchant.evaluation.winrate import effect_size, share, win_rate

scores = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.sampled_from("abcd")), min_size=1, max_size=40
)


def rates_of(wins: int, ties: int, losses: int):
    return [0.0] * (wins + ties + losses), [1.0] * wins + [0.0] * ties + [-1.0] * losses


@given(scores, st.booleans())
def test_swapping_base_and_tuned_mirrors_value_and_interval(rows, clustered):
    base, tuned, names = (list(column) for column in zip(*rows, strict=True))
    prompts = names if clustered else None
    forward, backward = win_rate(base, tuned, prompts=prompts), win_rate(tuned, base, prompts=prompts)
    assert forward.value == pytest.approx(1 - backward.value)
    assert forward.low == pytest.approx(1 - backward.high)
    assert forward.high == pytest.approx(1 - backward.low)
    assert (forward.wins, forward.ties, forward.losses) == (backward.losses, backward.ties, backward.wins)
    assert forward.sign_test_p == pytest.approx(backward.sign_test_p)


@given(scores)
def test_the_interval_holds_the_value_and_stays_in_zero_to_one(rows):
    base, tuned, names = (list(column) for column in zip(*rows, strict=True))
    rate = win_rate(base, tuned, prompts=names)
    assert 0 <= rate.low <= rate.value + 1e-12
    assert rate.value - 1e-12 <= rate.high <= 1
    assert rate.wins + rate.ties + rate.losses == rate.n == len(rows)


@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = (
        win_rate(
            *(list(column) for column in list(zip(*order, strict=True))[:2]), prompts=[r[2] for r in order]
        )
        for order in (rows, shuffled)
    )
    assert first == second


def test_ties_only_are_a_half_and_decide_nothing():
    rate = win_rate([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (rate.value, rate.ties, rate.sign_test_p) == (0.5, 3, 1.0)
    assert rate.low == pytest.approx(1 - rate.high)


def test_ties_count_half():
    # 528 wins, 201 ties, 271 losses of 1000: (528 + 100.5) / 1000 (SPO against Diffusion-DPO)
    rate = win_rate(*rates_of(528, 201, 271))
    assert rate.value == pytest.approx(0.6285)
    assert (rate.wins, rate.ties, rate.losses, rate.n, rate.num_prompts) == (528, 201, 271, 1000, 1000)


def test_tie_margin_is_inclusive_and_not_negative():
    rate = win_rate([0.0, 0.0, 0.0, 0.0], [0.5, -0.5, 0.75, -0.75], tie_margin=0.5)
    assert (rate.wins, rate.ties, rate.losses) == (1, 2, 1)
    with pytest.raises(ValueError, match="tie_margin must be >= 0"):
        win_rate([0.0], [1.0], tie_margin=-1)


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"), [(70, 100, 0.604, 0.781), (350, 500, 0.658, 0.739), (0, 10, 0.0, 0.278)]
)
def test_wilson_interval_worked_by_hand_and_by_scipy(wins, n, low, high):
    ours = wilson_interval(wins / n, n)
    assert ours == pytest.approx((low, high), abs=5e-4)
    other = stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert ours == pytest.approx((other.low, other.high), abs=1e-9)


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(60, 40, 0.0569), (280, 220, 0.00826), (9, 1, 0.0215), (8, 2, 0.109)]
)
def test_sign_test_worked_by_hand_with_ties_left_out(wins, losses, p):
    assert win_rate(*rates_of(wins, 17, losses)).sign_test_p == pytest.approx(p, rel=5e-3)


def test_seeds_of_one_prompt_are_one_vote_of_the_sign_test():
    # prompt a wins twice and loses once, b wins once and loses once (a tie), c wins
    rate = win_rate([0] * 6, [1, 1, -1, 1, -1, 1], prompts=list("aaabbc"))
    assert rate.sign_test_p == pytest.approx(0.5)  # two votes of two: 2 * (1/2)^2
    assert (rate.num_prompts, rate.n, rate.interval) == (3, 6, "bootstrap")


def test_one_pair_per_prompt_gives_wilson_and_copies_of_a_seed_add_no_certainty():
    base, tuned = rates_of(70, 0, 30)
    names = [f"prompt {i}" for i in range(100)]
    single = win_rate(base, tuned, prompts=names)
    assert single.interval == "wilson"
    copied = win_rate(base * 4, tuned * 4, prompts=names * 4)
    assert copied.interval == "bootstrap"
    assert copied.high - copied.low == pytest.approx(single.high - single.low, abs=0.02)


def test_all_wins_over_seeds_fall_back_to_wilson_over_prompts():
    rate = win_rate([0] * 20, [1] * 20, prompts=[str(i // 2) for i in range(20)])
    assert (rate.value, rate.high, rate.interval) == (1.0, 1.0, "wilson")
    assert rate.low == pytest.approx(stats.binomtest(10, 10).proportion_ci(method="wilson").low)


def test_cluster_bootstrap_agrees_with_scipy():
    generator = np.random.default_rng(3)
    per_prompt = generator.normal(size=60)
    values = (per_prompt[:, None] + 0.1 * generator.normal(size=(60, 3))).ravel()
    prompts = [f"{i:02d}" for i in range(60) for _ in range(3)]
    ours = bootstrap_interval(values, prompt_index(prompts, len(values)))
    means = values.reshape(60, 3).mean(axis=1)
    other = stats.bootstrap((means,), np.mean, n_resamples=10_000, method="percentile", rng=generator)
    wider = stats.t.ppf(0.975, 59) / 1.959964 * np.sqrt(60 / 59)  # for few prompts
    ends = np.array([other.confidence_interval.low, other.confidence_interval.high])
    assert ours == pytest.approx(tuple(means.mean() + wider * (ends - means.mean())), abs=0.02)


def test_one_prompt_shows_no_spread():
    assert bootstrap_interval(np.array([1.0, 2.0]), np.array([0, 0])) == (1.5, 1.5)


@pytest.mark.parametrize(("num_prompts", "num_seeds"), [(5, 1), (10, 1), (20, 1), (50, 1), (5, 4)])
def test_the_interval_of_a_mean_holds_it_in_95_percent_of_evaluations(num_prompts, num_seeds):
    generator = np.random.default_rng([num_prompts, num_seeds])
    index = np.repeat(np.arange(num_prompts), num_seeds)
    held = 0
    for _ in range(1500):
        prompts = generator.normal(size=num_prompts)  # true mean 0
        values = prompts[index] + generator.normal(size=len(index))
        low, high = bootstrap_interval(values, index, num_resamples=1000)
        held += low <= 0 <= high
    assert held / 1500 == pytest.approx(0.95, abs=0.018)  # three standard errors


@pytest.mark.parametrize(("num_prompts", "num_seeds"), [(4, 8), (8, 4), (20, 4)])
def test_the_interval_of_a_share_holds_it_in_95_percent_of_evaluations(num_prompts, num_seeds):
    generator = np.random.default_rng(0)
    names = [f"{number:02d}" for number in range(num_prompts) for _ in range(num_seeds)]
    held = 0
    for _ in range(400):
        chance = np.repeat(generator.beta(3.0, 3.0, size=num_prompts), num_seeds)  # true share 0.5
        estimate = share(generator.random(len(names)) < chance, prompts=names)
        held += estimate.low <= 0.5 <= estimate.high
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert held / 400 == pytest.approx(0.95, abs=0.025)  # the standard error is 0.011


def test_the_same_key_gives_the_same_interval_and_another_key_another():
    values = np.random.default_rng(0).normal(size=30)
    assert mean_estimate(values, seed=1) == mean_estimate(values, seed=1)
    assert mean_estimate(values, seed=1) != mean_estimate(values, seed=2)


def test_effect_size_worked_by_hand():
    # differences 1, 2, 3: mean 2, deviation with n - 1 is 1, d_z = 2
    effect = effect_size([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert effect.value == pytest.approx(2.0)
    assert effect.mean_difference == pytest.approx(2.0)
    # 1 of 27 resamples has mean 1: the 2.5 % percentile. 4.3027 / 1.96 * sqrt(3 / 2) = 2.6887 times as far
    assert effect.low == pytest.approx(2 - 2.6887, abs=1e-3)
    assert effect.high == pytest.approx(2 + 2.6887, abs=1e-3)


def test_effect_size_agrees_with_the_paired_t_statistic_of_scipy():
    generator = np.random.default_rng(7)
    base, tuned = generator.normal(size=50), generator.normal(0.3, 1.2, size=50)
    t = stats.ttest_rel(tuned, base).statistic
    assert effect_size(base, tuned).value == pytest.approx(t / np.sqrt(50))


def test_effect_size_of_equal_differences():
    assert effect_size([1.0, 2.0], [1.0, 2.0]).value == 0.0
    assert effect_size([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]).value is None


def test_share_is_a_wilson_share_and_reads_tensors_and_booleans():
    estimate = share(torch.tensor([True] * 70 + [False] * 30))
    assert (estimate.value, estimate.n) == (0.7, 100)
    assert (estimate.low, estimate.high) == pytest.approx((0.604, 0.781), abs=5e-4)


def test_bad_input_says_what_is_wrong():
    with pytest.raises(DataError, match="base scores: no values to evaluate, got 0"):
        win_rate([], [])
    with pytest.raises(DataError, match="tuned scores: row 1 is not a finite number, got nan"):
        win_rate([0.0, 0.0], [1.0, float("nan")])
    with pytest.raises(ValueError, match="need the same number, got 2 and 1"):
        win_rate([0.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="prompts: needs 2, one per value, got 1"):
        win_rate([0.0, 0.0], [1.0, 1.0], prompts=["a"])
    with pytest.raises(ValueError, match="needs one axis, got 2"):
        win_rate([[0.0]], [[1.0]])
