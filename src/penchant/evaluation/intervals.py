"""95 % intervals of shares and means, where images of one prompt count as one draw.

Axes: N values (one per image or per pair of images), P prompts, R bootstrap resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from penchant.errors import DataError

Z_95 = 1.959963984540054
"""Standard normal quantile of 0.975."""

IntervalKind = Literal["wilson", "bootstrap"]

_RESAMPLES_AT_ONCE = 500


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean or a share with the ends of its 95 % interval, over n values."""

    value: float
    low: float
    high: float
    n: int


def checked(values: ArrayLike, *, where: str) -> Float[np.ndarray, " N"]:
    """Values as a flat float64 array that is neither empty nor holds NaN or infinity.

    Args:
        values: One number per image or pair; booleans count as 0 and 1.
        where: What the values are, for the error sentence.

    Raises:
        DataError: There is no value, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{where}: needs one axis, got {array.ndim}")
    if not array.size:
        raise DataError(f"{where}: no values to evaluate, got 0. At least one pair of images is needed.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{where}: row {row} is not a finite number, got {array[row]}. Check the scorer.")
    return array


def prompt_index(prompts: Sequence[str] | None, n: int) -> Int[np.ndarray, " N"]:
    """Number of the prompt of each value; without prompts every value stands for itself.

    Prompts are numbered in alphabetical order, so the order of the rows changes no interval.
    """
    if prompts is None:
        return np.arange(n)
    if len(prompts) != n:
        raise ValueError(f"prompts: needs {n}, one per value, got {len(prompts)}")
    return np.unique(np.asarray(prompts, dtype=str), return_inverse=True)[1]


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson score interval of a share.

    (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96

    Args:
        share: Mean of n outcomes in [0, 1]. Outcomes of a half (ties) vary less than 0 and 1 do, so that
            they make the interval a little wider than it need be.
        n: Number of independent outcomes, > 0.

    Source:
        Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    centre = share + Z_95**2 / (2 * n)
    half = Z_95 * np.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    low, high = float((centre - half) / scale), float((centre + half) / scale)
    return min(share, max(0.0, low)), max(share, min(1.0, high))  # rounding must not cut off the share


def bootstrap_interval(
    values: Float[np.ndarray, " N"],
    prompts: Int[np.ndarray, " N"],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean when whole prompts are drawn with replacement (cluster bootstrap).

    The percentile interval of P prompts is too short where they are few. Its ends move away from the mean by

    t(P - 1) / 1.96 * sqrt(P / (P - 1))

    with t(P - 1) the 0.975 quantile of Student's distribution: 1.87 times as far at 4 prompts, 1.58 at 5,
    1.22 at 10, 1.04 at 50, 1.007 at 236. It may so reach past the largest value. One prompt alone shows no
    spread: the interval is then its mean.

    Args:
        values: One number per image or pair.
        prompts: Prompt number of each value, from `prompt_index`.
        num_resamples: Number R of resamples.
        seed: Key of the draws; the same values and the same key give the same interval.

    Source:
        Efron and Tibshirani 1993, An introduction to the bootstrap, chapters 8 and 13. The factor is that of
        the expanded percentile interval (Hesterberg 2015, What teachers should know about the bootstrap); it
        moves the ends here, not the percentiles, because few prompts have no resamples so far out.
    """
    num_prompts = int(prompts.max()) + 1
    sums = np.bincount(prompts, weights=values, minlength=num_prompts)
    counts = np.bincount(prompts, minlength=num_prompts)
    generator = np.random.default_rng([seed, num_prompts, num_resamples])
    means: list[NDArray[np.float64]] = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        drawn = generator.integers(num_prompts, size=(size, num_prompts))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    mean, wider = sums.sum() / counts.sum(), _few_prompts(num_prompts)
    return float(mean - wider * (mean - low)), float(mean + wider * (high - mean))


def _few_prompts(num_prompts: int) -> float:
    """How much longer an interval over prompts must be than its percentiles say."""
    if num_prompts == 1:
        return 1.0
    quantile = float(t.ppf(0.975, num_prompts - 1))
    return quantile / Z_95 * (num_prompts / (num_prompts - 1)) ** 0.5


def share_estimate(
    outcomes: ArrayLike, prompts: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[Estimate, IntervalKind]:
    """Share of successes and how its interval was made.

    The rule: one outcome per prompt, Wilson; several outcomes for some prompt, cluster bootstrap over
    prompts. A bootstrap cannot vary when all prompts have the same share (for example 1); then it is Wilson
    again, with the number of prompts as n, because seeds of one prompt are not independent.

    Args:
        outcomes: Values in [0, 1]; a tie is 0.5.
        prompts: Prompt of each outcome; None if each has its own.
        seed: Key of the bootstrap.
    """
    values = checked(outcomes, where="share")
    index = prompt_index(prompts, len(values))
    num_prompts = int(index.max()) + 1
    share = float(values.mean())
    per_prompt = np.bincount(index, weights=values) / np.bincount(index)
    if num_prompts == len(values) or np.ptp(per_prompt) == 0:
        low, high = wilson_interval(share, num_prompts)
        kind: IntervalKind = "wilson"
    else:
        low, high = bootstrap_interval(values, index, seed=seed)
        low, high = max(0.0, low), min(1.0, high)
        kind = "bootstrap"
    return Estimate(value=share, low=low, high=high, n=len(values)), kind


def mean_estimate(values: ArrayLike, prompts: Sequence[str] | None = None, *, seed: int = 0) -> Estimate:
    """Mean of unbounded values with its bootstrap interval over prompts.

    Args:
        values: One number per image or pair.
        prompts: Prompt of each value; None if each has its own.
        seed: Key of the bootstrap.
    """
    array = checked(values, where="mean")
    low, high = bootstrap_interval(array, prompt_index(prompts, len(array)), seed=seed)
    return Estimate(value=float(array.mean()), low=low, high=high, n=len(array))
