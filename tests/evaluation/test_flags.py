"""Flags: each fires on its own case, with its numbers, and stays silent otherwise."""

import pytest

from penchant.evaluation.drift import drift_measure
from penchant.evaluation.flags import Thresholds, find_flags, overshoot
from penchant.evaluation.winrate import share, win_rate

UP = win_rate([0.0] * 50, [1.0] * 50)
DOWN = win_rate([1.0] * 50, [0.0] * 50)
EVEN = win_rate([0.0] * 50, [1.0, -1.0] * 25)
SHARES = (share([True] * 15 + [False] * 85), share([True] * 97 + [False] * 3))


def captions(before: float, after: float):
    return drift_measure("caption match", "points", [before] * 10, [after] * 10)


def test_style_up_and_caption_match_down_is_named():
    flags = find_flags([captions(40.0, 36.5)], headline=("h", UP), preferred_share=SHARES)
    assert [flag.name for flag in flags] == ["preferred style up, caption match down"]
    assert "rose from 15% to 97%" in flags[0].sentence
    assert "fell by 3.5 points, from 40.0 to 36.5 (3 are allowed)" in flags[0].sentence


def test_caption_match_may_fall_by_three_points_and_not_more():
    assert not find_flags([captions(40.0, 37.0)], headline=("h", UP), preferred_share=SHARES)
    assert find_flags([captions(40.0, 36.9)], headline=("h", UP), preferred_share=SHARES)
    assert not find_flags([captions(40.0, 45.0)], headline=("h", UP), preferred_share=SHARES)


def test_caption_match_down_without_a_style_that_rose():
    for shares in (None, SHARES[::-1]):
        (flag,) = find_flags([captions(40.0, 30.0)], headline=("h", UP), preferred_share=shares)
        assert flag.name == "caption match down"
        assert flag.sentence.startswith("Caption match fell by 10.0 points")


def test_headline_up_and_most_others_down():
    (flag,) = find_flags([], headline=("h", UP), untrained={"a": DOWN, "b": DOWN, "c": EVEN})
    assert flag.name == "headline score up, other scores down"
    assert flag.sentence == (
        "The tuned model wins 100% of the pairs on the headline score, but loses on most of the others (a "
        "0%, b 0%): they do not agree on what is better. Look at the gallery."
    )
    assert not find_flags([], headline=("h", UP), untrained={"a": DOWN, "b": EVEN})
    assert not find_flags([], headline=("h", EVEN), untrained={"a": DOWN})
    assert not find_flags([], headline=("h", UP))


def test_a_headline_that_was_trained_on_may_have_been_learned():
    first, second = find_flags([], headline=("style", UP), trained={"style": UP}, untrained={"a": DOWN})
    assert first.name == "headline score was trained on"
    assert second.name == "trained score up, other scores down: style"
    assert second.sentence == (
        "The tuned model wins 100% of the pairs on style, which it was trained on, but loses on most scores "
        "that it was not trained on (a 0%): it may have learned the score."
    )


def test_a_trained_score_is_held_against_an_untrained_headline_too():
    (flag,) = find_flags([], headline=("h", DOWN), trained={"style": UP}, untrained={"a": EVEN, "b": DOWN})
    assert flag.name == "trained score up, other scores down: style" and "(b 0%, h 0%)" in flag.sentence
    assert not find_flags([], headline=("h", EVEN), trained={"style": UP}, untrained={"b": DOWN})
    assert not find_flags([], headline=("h", DOWN), trained={"style": EVEN}, untrained={"b": DOWN})


def test_a_fall_of_the_caption_match_that_may_be_chance_is_no_flag():
    line = drift_measure("caption match", "points", [40.0] * 4, [10.0, 50.0, 45.0, 41.0])
    assert line.difference < -3 and line.high > 0
    assert not find_flags([line], headline=("h", UP))


@pytest.mark.parametrize(
    ("preferred", "tuned", "expected"),
    [
        (None, 0.6, 0.5),
        (0.6, 0.6, 0.0),
        (0.6, 0.5, 0.0),
        (0.5, 0.6, 0.25),
        (0.6, 0.3, -0.25),
        (None, 0.3, -0.25),
    ],
)
def test_only_what_passes_the_goal_is_overshoot(preferred, tuned, expected):
    line = drift_measure("saturation", "", [0.4] * 5, [tuned] * 5, preferred=preferred)
    assert overshoot(line) == pytest.approx(expected)


def test_over_optimisation_names_the_measure_and_the_limit():
    line = drift_measure("edge density", "", [0.20] * 5, [0.08] * 5)
    (flag,) = find_flags([line], headline=("h", UP))
    assert flag.name == "over-optimisation: edge density"
    assert "from 0.2 to 0.08: -60% where 30% is allowed" in flag.sentence
    goal = drift_measure("edge density", "", [0.20] * 5, [0.08] * 5, preferred=0.09)
    assert not find_flags([goal], headline=("h", UP))


def test_a_change_that_may_be_chance_is_no_flag():
    line = drift_measure("saturation", "", [0.4] * 4, [0.1, 0.2, 1.0, 1.0])
    assert line.low < 0 < line.high
    assert not find_flags([line], headline=("h", UP), thresholds=Thresholds(relative={"saturation": 0.01}))


def test_more_diversity_is_no_flag_and_less_is():
    more, less = (drift_measure("diversity between seeds", "", [0.4] * 5, [v] * 5) for v in (0.8, 0.1))
    assert not find_flags([more], headline=("h", UP))
    assert len(find_flags([less], headline=("h", UP))) == 1


def test_a_base_of_zero_has_no_relative_limit():
    assert overshoot(drift_measure("saturation", "", [0.0], [1.0])) == 0.0
