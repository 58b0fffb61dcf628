"""The three sentences: each outcome reads as what it is."""

from dataclasses import replace

import pytest

from penchant.evaluation.flags import Flag
from penchant.evaluation.intervals import Estimate
from penchant.reports.contents import RunContents, read_run_folder
from penchant.reports.summary import (
    change_text,
    effect_text,
    number,
    percent,
    percent_range,
    setting_name,
    signed,
    summarise,
)


def altered(
    contents: RunContents, *, low: float, high: float, before=0.15, after=0.78, flags=()
) -> RunContents:
    results = contents.results
    shares = replace(
        results.preferred_share,
        base=Estimate(value=before, low=0.1, high=0.2, n=240),
        tuned=Estimate(value=after, low=0.7, high=0.9, n=240),
    )
    return replace(
        contents,
        results=replace(
            results,
            win_rate=replace(results.win_rate, value=(low + high) / 2, low=low, high=high),
            preferred_share=shares,
            drift=replace(results.drift, flags=tuple(flags)),
        ),
    )


FLAG = Flag(name="caption match down", sentence="It fell.")


@pytest.mark.parametrize(
    ("case", "level", "words"),
    [
        ({"low": 0.9, "high": 0.96}, "good", "makes what is preferred more often, and nothing is flagged."),
        ({"low": 0.45, "high": 0.6}, "unclear", "The interval contains one half, so no difference is shown"),
        ({"low": 0.2, "high": 0.4}, "worse", "makes what is preferred less often than its base."),
        ({"low": 0.98, "high": 1.0, "after": 0.2}, "unclear", "The change is regular but small"),
        (
            {"low": 0.9, "high": 0.96, "flags": [FLAG]},
            "warning",
            "but 1 finding is flagged: caption match down.",
        ),
        ({"low": 0.2, "high": 0.4, "flags": [FLAG, FLAG]}, "warning", "and 2 findings are flagged"),
    ],
)
def test_verdicts(run_folder, case, level, words):
    summary = summarise(altered(read_run_folder(run_folder), **case))
    assert summary.level == level
    assert words in summary.verdict


def test_all_three_sentences(run_folder):
    summary = summarise(altered(read_run_folder(run_folder), low=0.9, high=0.96))
    assert summary.done == (
        "The model assets/emoji-model was fine-tuned with diffusion-dpo on the preferences of "
        "assets/emoji-pairs.parquet for 240 steps."
    )
    assert summary.numbers.startswith(
        "On 30 pairs of images (15 prompts, same seeds for both models) the tuned model wins 93% "
        "(95% interval 90 to 96%), judged by style: fluent, the share of preferred images goes from 15% to "
        "78%, and caption match from "
    )


def test_an_unfinished_run_says_so(tmp_path):
    summary = summarise(read_run_folder(tmp_path))
    assert "no training step is logged" in summary.done
    assert "not been evaluated yet" in summary.numbers
    assert summary.level == "unclear"


def test_numbers_read_well(run_folder):
    assert [percent(x) for x in (0.934, 0.5, 1.0)] == ["93.4%", "50%", "100%"]
    assert percent_range(Estimate(value=0.5, low=0.4, high=0.606, n=1)) == "40 to 60.6%"
    assert [number(x) for x in (0.012345, -2.5, 12345.6)] == ["0.0123", "\u22122.5", "12,346"]
    assert [signed(x) for x in (1.25, -0.4)] == ["+1.2", "\u22120.4"]
    effect = read_run_folder(run_folder).results.effect_size
    effect = replace(effect, value=None, mean_difference=-0.0622, low=-0.088, high=-0.03)
    assert effect_text(effect) == "not defined"
    assert change_text(effect) == "\u22120.062 (\u22120.088 to \u22120.030)"


def test_names_of_settings():
    run = {"method": "ipo", "model": "x/y", "data": {"path": "p.parquet"}, "seed": 3}
    assert [setting_name(run, key) for key in ("method", "model", "data", "seed", "none")] == [
        "ipo", "x/y", "p.parquet", None, None,
    ]  # fmt: skip
