"""The run in three sentences: what was done, what came out, what to make of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from penchant.evaluation.intervals import Estimate
from penchant.evaluation.results import Results
from penchant.evaluation.winrate import EffectSize, WinRate
from penchant.reports.contents import RunContents

MINUS = "\N{MINUS SIGN}"

SMALL_RISE = 0.1
"""A rise of the preferred share below this is called small, however high the win-rate."""

Level = Literal["good", "unclear", "warning", "worse"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Three sentences and how the last one reads: good, unclear, worse or with warnings."""

    done: str
    numbers: str
    verdict: str
    level: Level


def percent(share: float) -> str:
    """A share in percent, one digit after the point, without a needless zero."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def percent_range(estimate: Estimate | WinRate) -> str:
    """The interval of a share, such as `89.1 to 96%`."""
    return f"{percent(estimate.low).removesuffix('%')} to {percent(estimate.high)}"


def number(value: float) -> str:
    """A number with three figures, whole above 1000."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    """A change with its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def effect_text(effect: EffectSize) -> str:
    """The effect size d_z, or that it has none."""
    return "not defined" if effect.value is None else f"{effect.value:.2f}".replace("-", MINUS)


def change_text(effect: EffectSize) -> str:
    """The mean difference with its interval, all with the same number of digits."""
    size = max(abs(effect.low), abs(effect.high), 1e-6)
    digits = min(max(1 - math.floor(math.log10(size)), 0), 6)
    low, high = signed(effect.low, digits), signed(effect.high, digits)
    return f"{signed(effect.mean_difference, digits)} ({low} to {high})"


def setting_name(run: Mapping[str, Any], key: str) -> str | None:
    """Name of the method, model or data of a run file: the value, or its path."""
    value = run.get(key)
    if isinstance(value, Mapping):
        value = value.get("path")
    return value if isinstance(value, str) else None


def summarise(contents: RunContents) -> Summary:
    """The three sentences of a run, as far as its folder can tell."""
    return Summary(done=_done(contents), **outcome(contents.results))


def _done(contents: RunContents) -> str:
    model, method, data = (setting_name(contents.run, key) for key in ("model", "method", "data"))
    steps = contents.metrics.last_step
    sentence = f"The model {model or '(not named in the run file)'} was fine-tuned with "
    sentence += f"{method or 'a method the run file does not name'} on "
    sentence += f"the preferences of {data}" if data else "preference data the run file does not name"
    return sentence + (f" for {steps:,} steps." if steps is not None else "; no training step is logged.")


def outcome(results: Results | None) -> dict[str, Any]:
    """The two sentences on an evaluation, numbers and verdict, and how good they are."""
    if results is None:
        return {
            "numbers": "It has not been evaluated yet.",
            "verdict": "Nothing can be said about its quality before penchant evaluate has run.",
            "level": "unclear",
        }
    verdict, level = _verdict(results)
    return {"numbers": _numbers(results), "verdict": verdict, "level": level}


def _numbers(results: Results) -> str:
    rate = results.win_rate
    sentence = (
        f"On {rate.n} pairs of images ({rate.num_prompts} prompts, same seeds for both models) the tuned "
        f"model wins {percent(rate.value)} (95% interval {percent_range(rate)}), judged by "
        f"{results.evaluation.metric}"
    )
    if shares := results.preferred_share:
        sentence += (
            f", the share of preferred images goes from {percent(shares.base.value)} to "
            f"{percent(shares.tuned.value)}"
        )
    if captions := results.caption_match:
        sentence += f", and caption match from {captions.base.value:.1f} to {captions.tuned.value:.1f} points"
    return sentence + "."


def _verdict(results: Results) -> tuple[str, Level]:
    flags, rate, shares = results.drift.flags, results.win_rate, results.preferred_share
    rise = 1.0 if shares is None else shares.tuned.value - shares.base.value
    if rate.high < 0.5:
        start, level = "The tuned model makes what is preferred less often than its base", "worse"
    elif rate.low <= 0.5:
        start, level = "The interval contains one half, so no difference is shown", "unclear"
    elif rise < SMALL_RISE:
        start, level = (
            "The change is regular but small: most pairs are won, the share hardly moves",
            "unclear",
        )
    else:
        start, level = "The tuned model makes what is preferred more often", "good"
    if not flags:
        return f"{start}{'.' if level == 'worse' else ', and nothing is flagged.'}", level
    count = "1 finding is" if len(flags) == 1 else f"{len(flags)} findings are"
    joint = "and" if level == "worse" else "but"
    return f"{start}, {joint} {count} flagged: {'; '.join(flag.name for flag in flags)}.", "warning"
