"""Win-rate, share and effect size of the tuned model against its base, on paired images.

Axes: N pairs; image i of both models has the same prompt, the same seed and the same sampler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from penchant.evaluation.intervals import (
    Estimate,
    IntervalKind,
    checked,
    mean_estimate,
    prompt_index,
    share_estimate,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """How often the tuned image scores higher than its base image; a tie counts half.

    `n` counts pairs of images, `num_prompts` the prompts they belong to. `interval` names how `low` and
    `high` were made, see `share_estimate`. `sign_test_p` is two-sided and leaves ties out.
    """

    value: float
    low: float
    high: float
    n: int
    num_prompts: int
    wins: int
    ties: int
    losses: int
    sign_test_p: float
    interval: IntervalKind


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSize:
    """How large the change is, where the win-rate says only how regular it is.

    `value` is d_z, the mean difference over the standard deviation of the differences; None if all
    differences are the same and not zero. `mean_difference` is in the unit of the score; `low` and `high`
    belong to it.
    """

    value: float | None
    base_mean: float
    tuned_mean: float
    mean_difference: float
    low: float
    high: float
    n: int


def paired_difference(base: ArrayLike, tuned: ArrayLike) -> Float[np.ndarray, " N"]:
    """Score of the tuned image minus that of its base image, in float64."""
    first, second = checked(base, where="base scores"), checked(tuned, where="tuned scores")
    if first.shape != second.shape:
        raise ValueError(f"base and tuned scores: need the same number, got {len(first)} and {len(second)}")
    return second - first


def sign_test(outcomes: Float[np.ndarray, " N"], prompts: Sequence[str] | None = None) -> float:
    """Two-sided exact sign test of wins against losses, ties left out; 1 if nothing is decided.

    Args:
        outcomes: 1 win, 0.5 tie, 0 loss of the tuned model.
        prompts: Prompt of each outcome. Several pairs of one prompt become one vote by their mean.
    """
    index = prompt_index(prompts, len(outcomes))
    votes = np.bincount(index, weights=outcomes) / np.bincount(index)
    wins, losses = int((votes > 0.5).sum()), int((votes < 0.5).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def win_rate(
    base: ArrayLike,
    tuned: ArrayLike,
    *,
    tie_margin: float = 0.0,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
) -> WinRate:
    """Paired win-rate of the tuned model with its 95 % interval and sign test.

    (W + T/2) / (W + T + L)

    Args:
        base: Score of each base image, higher is better.
        tuned: Score of the tuned image of the same prompt and seed.
        tie_margin: Largest difference that still is a tie, in the unit of the score; >= 0.
        prompts: Prompt of each pair; None if each has its own. Pairs of one prompt stay together in the
            interval and are one vote in the sign test.
        seed: Key of the bootstrap.
    """
    if tie_margin < 0:
        raise ValueError(f"tie_margin must be >= 0, got {tie_margin}")
    difference = paired_difference(base, tuned)
    outcomes = np.where(np.abs(difference) <= tie_margin, 0.5, (difference > 0).astype(np.float64))
    estimate, kind = share_estimate(outcomes, prompts, seed=seed)
    return WinRate(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        num_prompts=len(outcomes) if prompts is None else len(set(prompts)),
        wins=int((outcomes == 1).sum()),
        ties=int((outcomes == 0.5).sum()),
        losses=int((outcomes == 0).sum()),
        sign_test_p=sign_test(outcomes, prompts),
        interval=kind,
    )


def effect_size(
    base: ArrayLike, tuned: ArrayLike, *, prompts: Sequence[str] | None = None, seed: int = 0
) -> EffectSize:
    """Paired effect size d_z and the raw mean difference with its bootstrap interval over prompts.

    Args:
        base: Score of each base image.
        tuned: Score of the tuned image of the same prompt and seed.
        prompts: Prompt of each pair; None if each has its own.
        seed: Key of the bootstrap.

    Source:
        Cohen 1988, Statistical power analysis, section 2.3.5 (d_z); the deviation is divided by n - 1.
    """
    difference = paired_difference(base, tuned)
    mean = mean_estimate(difference, prompts, seed=seed)
    varies = np.ptp(difference) > 1e-9 * np.abs(difference).max()  # not mere rounding
    constant = 0.0 if mean.value == 0 else None
    value = mean.value / float(difference.std(ddof=1)) if varies else constant
    return EffectSize(
        value=value,
        base_mean=float(np.mean(np.asarray(base, dtype=np.float64))),
        tuned_mean=float(np.mean(np.asarray(tuned, dtype=np.float64))),
        mean_difference=mean.value,
        low=mean.low,
        high=mean.high,
        n=mean.n,
    )


def share(labels: ArrayLike, *, prompts: Sequence[str] | None = None, seed: int = 0) -> Estimate:
    """Share of true labels with its interval, such as the images that show the preferred style.

    Args:
        labels: One truth value per image.
        prompts: Prompt of each label; None if each has its own.
        seed: Key of the bootstrap.
    """
    return share_estimate(labels, prompts, seed=seed)[0]
