import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.shapes.grouping import PairRule, UnaryRule, order, pairs, ranked, tally, unary

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=6)
rewards = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=4)
)


@given(scores, st.sampled_from(PairRule))
def test_the_winner_of_every_pair_scores_higher(s, rule):
    assert all(s[winner] > s[loser] for winner, loser in pairs(s, rule).decided)


@given(scores)
def test_pairs_and_ties_add_up_to_all_comparisons(s):
    got = pairs(s)
    assert len(got.decided) + got.num_ties == len(s) * (len(s) - 1) // 2
    assert len(set(map(frozenset, got.decided))) == len(got.decided)


@given(scores, st.sampled_from(PairRule))
def test_every_rule_draws_from_all_pairs(s, rule):
    assert set(pairs(s, rule).decided) <= set(pairs(s).decided)


@given(scores, st.randoms(use_true_random=False))
def test_all_pairs_do_not_depend_on_the_order_of_candidates(s, random):
    at = list(range(len(s)))
    random.shuffle(at)
    moved = pairs([s[i] for i in at]).decided
    assert {(at[w], at[loser]) for w, loser in moved} == set(pairs(s).decided)


@given(scores, st.integers(0, 6))
def test_a_gap_drops_exactly_the_pairs_that_stand_closer(s, gap):
    far = [(w, loser) for w, loser in pairs(s).decided if s[w] - s[loser] >= gap]
    assert pairs(s, min_gap=gap).decided == far


@given(scores)
def test_wins_and_losses_balance_and_count_the_pairs(s):
    wins, losses = tally(s)
    assert sum(wins) == sum(losses) == len(pairs(s).decided)


@given(rewards)
def test_phi_is_a_share_and_strict_wins_and_ties_fill_the_table(rows):
    _, phi = ranked(rows)
    assert all(0 <= share <= 1 for share in phi)
    n = len(rows[0])
    num_ties = sum(pairs(row).num_ties for row in rows)
    assert sum(phi) * len(rows) * (n - 1) + num_ties == pytest.approx(len(rows) * n * (n - 1) / 2)


@given(rewards)
def test_the_order_is_best_first_and_stable(rows):
    best_first, phi = ranked(rows)
    assert sorted(best_first) == list(range(len(phi)))
    for a, b in itertools.pairwise(best_first):
        assert phi[a] > phi[b] or (phi[a] == phi[b] and a < b)


def test_pairs_worked_by_hand():  # scores 3 2 2 1: one tie among the six comparisons
    s = [2, 3, 1, 2]
    assert order(s) == [1, 0, 3, 2]
    assert pairs(s) == ([(1, 0), (1, 3), (1, 2), (0, 2), (3, 2)], 1)
    assert pairs(s, PairRule.BEST_VS_WORST) == ([(1, 2)], 0)
    assert pairs(s, PairRule.ADJACENT) == ([(1, 0), (3, 2)], 1)


def test_equal_ranks_give_no_pair():
    assert pairs([4, 4, 4]) == ([], 3)
    assert pairs([4, 4, 4], PairRule.BEST_VS_WORST) == ([], 1)
    assert pairs([4], PairRule.BEST_VS_WORST) == ([], 0)


def test_ties_at_both_ends_take_the_first_of_each():
    assert pairs([1, 5, 5, 1], PairRule.BEST_VS_WORST).decided == [(1, 0)]


def test_phi_of_two_rewards_worked_in_the_rankdpo_notes():
    best_first, phi = ranked([[3, 1, 2], [2, 2, 5]])
    assert phi == pytest.approx([0.5, 0.0, 0.75])
    assert best_first == [2, 0, 1]


@given(scores, st.sampled_from(UnaryRule))
def test_labels_turn_round_with_the_scores_where_no_candidate_is_mixed(s, rule):
    top_and_bottom = [score for score in s if score in (min(s), max(s))]
    labels = unary(*tally(top_and_bottom), rule)
    assert unary(*tally([-score for score in top_and_bottom]), rule) == [-label for label in labels]
    assert (0 in labels) == (len(set(s)) == 1)


def test_unary_labels_of_both_rules():  # won twice; won once, lost once; only lost; only tied
    wins, losses = [2, 1, 0, 0], [0, 1, 3, 0]
    assert unary(wins, losses) == [1, 1, -1, 0]
    assert unary(wins, losses, UnaryRule.ALWAYS) == [1, 0, -1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pairs([1.0, float("nan")]), "scores must be finite numbers, got [1.0, nan]"),
        (lambda: pairs([1.0, 2.0], min_gap=-1.0), "min_gap must be >= 0, got -1.0"),
        (
            lambda: ranked([[1, 2], [1, 2, 3]]),
            "rewards must be rows of one length, at least 2 scores each, got lengths [2, 3]",
        ),
        (
            lambda: ranked([[1]]),
            "rewards must be rows of one length, at least 2 scores each, got lengths [1]",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
