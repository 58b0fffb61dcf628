"""Named flags: what in the numbers a person must know before trusting a win-rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from penchant.evaluation.drift import CAPTION_MATCH, DIVERSITY, DriftMeasure
from penchant.evaluation.intervals import Estimate
from penchant.evaluation.winrate import WinRate


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A finding with a fixed name, a sentence that holds its numbers, and the drift measure it is about."""

    name: str
    sentence: str
    measure: str | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """How much drift is too much.

    `caption_match` is in points; `relative` is the largest change of a measure, as a part of its base mean.
    A change is measured from the nearest value between the base mean and the mean of the preferred images, so
    going where the data leads is no flag and going past it is.
    """

    caption_match: float = 3.0
    relative: Mapping[str, float] = field(
        default_factory=lambda: {
            "saturation": 0.25,
            "contrast": 0.25,
            "edge density": 0.30,
            "colour entropy": 0.20,
            "spectrum slope": 0.20,
            DIVERSITY: 0.25,
        }
    )

    def by_name(self) -> dict[str, float]:
        """All limits by measure: parts of the base mean, and points for the caption match."""
        return {**self.relative, CAPTION_MATCH: self.caption_match}


def overshoot(measure: DriftMeasure) -> float:
    """Signed distance of the tuned mean from the span of base and preferred mean, over the base mean."""
    if abs(measure.base) <= 1e-9:
        return 0.0
    ends = (measure.base, measure.base if measure.preferred is None else measure.preferred)
    nearest = min(max(measure.tuned, min(ends)), max(ends))
    return (measure.tuned - nearest) / abs(measure.base)


def over_optimisation(panel: Sequence[DriftMeasure], thresholds: Thresholds) -> list[Flag]:
    """A flag for each measure that left its span by more than its threshold, beyond chance.

    Diversity between seeds is flagged only when it falls.
    """
    flags = []
    for measure in panel:
        limit = thresholds.relative.get(measure.name)
        excess = overshoot(measure)
        beyond_chance = measure.low > 0 or measure.high < 0
        if limit is None or not beyond_chance or abs(excess) <= limit:
            continue
        if measure.name == DIVERSITY and excess > 0:
            continue
        goal = "" if measure.preferred is None else f", preferred images {measure.preferred:.3g}"
        flags.append(
            Flag(
                name=f"over-optimisation: {measure.name}",
                sentence=f"{measure.name.capitalize()} went from {measure.base:.3g} to {measure.tuned:.3g}"
                f"{goal}: {excess:+.0%} where {limit:.0%} is allowed. Look for artefacts in the gallery; "
                "train for fewer steps or with a larger beta.",
                measure=measure.name,
            )
        )
    return flags


def caption_match_down(
    panel: Sequence[DriftMeasure],
    preferred_share: tuple[Estimate, Estimate] | None,
    thresholds: Thresholds,
) -> list[Flag]:
    """Flag a fall of the caption match past its limit and beyond chance; says if the preferred style rose."""
    measure = next((measure for measure in panel if measure.name == CAPTION_MATCH), None)
    if measure is None or measure.difference >= -thresholds.caption_match or measure.high >= 0:
        return []
    fall = (
        f"caption match fell by {-measure.difference:.1f} points, from {measure.base:.1f} to "
        f"{measure.tuned:.1f} ({thresholds.caption_match:g} are allowed)"
    )
    if preferred_share is not None and preferred_share[1].value > preferred_share[0].value:
        before, after = (estimate.value for estimate in preferred_share)
        return [
            Flag(
                name="preferred style up, caption match down",
                sentence=f"The preferred style rose from {before:.0%} to {after:.0%} of the images, but "
                f"{fall}: the model gives up what the prompts ask for.",
                measure=CAPTION_MATCH,
            )
        ]
    sentence = f"{fall[0].upper()}{fall[1:]}."
    return [Flag(name="caption match down", sentence=sentence, measure=CAPTION_MATCH)]


def trained_score_up(trained: Mapping[str, WinRate], untrained: Mapping[str, WinRate]) -> list[Flag]:
    """Flag each score that was trained on and wins while most of those that were not trained on lose."""
    losing = _most_that_lose(untrained)
    if losing is None:
        return []
    return [
        Flag(
            name=f"trained score up, other scores down: {name}",
            sentence=f"The tuned model wins {rate.value:.0%} of the pairs on {name}, which it was trained "
            f"on, but loses on most scores that it was not trained on ({losing}): it may have learned the "
            "score.",
        )
        for name, rate in trained.items()
        if rate.low > 0.5
    ]


def headline_up(headline: WinRate, others: Mapping[str, WinRate]) -> list[Flag]:
    """Flag a headline score that was not trained on and wins while most of the others like it lose."""
    losing = _most_that_lose(others)
    if losing is None or headline.low <= 0.5:
        return []
    return [
        Flag(
            name="headline score up, other scores down",
            sentence=f"The tuned model wins {headline.value:.0%} of the pairs on the headline score, but "
            f"loses on most of the others ({losing}): they do not agree on what is better. Look at the "
            "gallery.",
        )
    ]


def _most_that_lose(rates: Mapping[str, WinRate]) -> str | None:
    """Those whose whole 95 % interval is below a half, if they are more than half of all; else None."""
    losing = [name for name, rate in rates.items() if rate.high < 0.5]
    if 2 * len(losing) <= len(rates):
        return None
    return ", ".join(f"{name} {rates[name].value:.0%}" for name in losing)


def judged_by_its_teacher(name: str) -> list[Flag]:
    """Flag a headline score that training aimed at, or that made the labels."""
    return [
        Flag(
            name="headline score was trained on",
            sentence=f"The headline score, {name}, is what training aimed at or what made its "
            "labels: the win-rate says how well it was learned, not that the images are better. Judge by "
            "another score.",
        )
    ]


def find_flags(
    panel: Sequence[DriftMeasure],
    *,
    headline: tuple[str, WinRate],
    trained: Mapping[str, WinRate] | None = None,
    untrained: Mapping[str, WinRate] | None = None,
    preferred_share: tuple[Estimate, Estimate] | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[Flag, ...]:
    """All flags, the gravest first.

    Args:
        panel: Lines from `drift_panel`.
        headline: The headline score and its win-rate.
        trained: Win-rates on the scores that training aimed at or that made its labels, the headline score
            among them if it is one.
        untrained: Win-rates on further quality scores, which are none of these.
        preferred_share: Share of the preferred style in base and tuned images.
        thresholds: Limits; the documented ones if None.
    """
    limits, trained, untrained = thresholds or Thresholds(), trained or {}, untrained or {}
    name, rate = headline
    judged_by_another = name not in trained
    return (
        *([] if judged_by_another else judged_by_its_teacher(name)),
        *caption_match_down(panel, preferred_share, limits),
        *trained_score_up(trained, {**untrained, name: rate} if judged_by_another else untrained),
        *(headline_up(rate, untrained) if judged_by_another else []),
        *over_optimisation(panel, limits),
    )
