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
    """Flag a fall of the caption match by more than the threshold, and whether the preferred style rose."""
    measure = next((measure for measure in panel if measure.name == CAPTION_MATCH), None)
    if measure is None or measure.difference >= -thresholds.caption_match:
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


def only_headline_up(
    headline: WinRate, others: Mapping[str, WinRate], trained_judge: str | None
) -> list[Flag]:
    """Flag a headline score that wins while more than half of the other quality scores lose.

    Wins means that the whole 95 % interval of the win-rate is above a half, loses that it is below.
    """
    losing = [name for name, rate in others.items() if rate.high < 0.5]
    if headline.low <= 0.5 or 2 * len(losing) <= len(others):
        return []
    numbers = ", ".join(f"{name} {others[name].value:.0%}" for name in losing)
    wins = f"The tuned model wins {headline.value:.0%} of the pairs on the headline score"
    if trained_judge is None:
        sentence = (
            f"{wins}, but loses on most of the others ({numbers}): they do not agree on what is better. Look "
            "at the gallery."
        )
    else:
        sentence = (
            f"{wins}, which it was trained on, but loses on most of those it was not trained on ({numbers}): "
            "it may have learned the score."
        )
    return [Flag(name="headline score up, other scores down", sentence=sentence)]


def judged_by_its_teacher(trained_judge: str | None) -> list[Flag]:
    """Flag a headline score that training aimed at, or that made the labels."""
    if trained_judge is None:
        return []
    return [
        Flag(
            name="headline score was trained on",
            sentence=f"The headline score, {trained_judge}, is what training aimed at or what made its "
            "labels: the win-rate says how well it was learned, not that the images are better. Judge by "
            "another score.",
        )
    ]


def find_flags(
    panel: Sequence[DriftMeasure],
    *,
    headline: WinRate,
    trained_judge: str | None = None,
    preferred_share: tuple[Estimate, Estimate] | None = None,
    others: Mapping[str, WinRate] | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[Flag, ...]:
    """All flags, the gravest first.

    Args:
        panel: Lines from `drift_panel`.
        headline: Win-rate on the headline score.
        trained_judge: Name of that score if training aimed at it, or if it made the labels.
        preferred_share: Share of the preferred style in base and tuned images.
        others: Win-rates on the other quality scores that the run was not trained on.
        thresholds: Limits; the documented ones if None.
    """
    limits = thresholds or Thresholds()
    return (
        *judged_by_its_teacher(trained_judge),
        *caption_match_down(panel, preferred_share, limits),
        *only_headline_up(headline, others or {}, trained_judge),
        *over_optimisation(panel, limits),
    )
