"""From paired images to results: every score, interval, drift measure and flag of one evaluation.

Axes: N pairs of images, 3 channels, H W pixels.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from penchant.evaluation.drift import Features, PairedImages, drift_panel, pixel_features
from penchant.evaluation.flags import Thresholds, find_flags
from penchant.evaluation.intervals import mean_estimate
from penchant.evaluation.results import (
    BaseAndTuned,
    Drift,
    EvaluationManifest,
    Results,
    Role,
    ScoreComparison,
)
from penchant.evaluation.winrate import effect_size, share, win_rate
from penchant.protocols import Reward


def compare_score(
    pairs: PairedImages, reward: Reward, *, role: Role, tie_margin: float = 0.0
) -> ScoreComparison:
    """Means and win-rate of one reward on paired images.

    Args:
        pairs: The images.
        reward: The score.
        role: What the score means for this run.
        tie_margin: Largest difference that still is a tie.
    """
    base, tuned = (_scores(reward, images, pairs.prompts) for images in (pairs.base, pairs.tuned))
    return ScoreComparison(
        unit=reward.unit,
        version=reward.version,
        role=role,
        base=mean_estimate(base, pairs.prompts),
        tuned=mean_estimate(tuned, pairs.prompts),
        win_rate=win_rate(base, tuned, tie_margin=tie_margin, prompts=pairs.prompts),
    )


def compare(
    pairs: PairedImages,
    *,
    manifest: EvaluationManifest,
    metric: Reward,
    quality: Sequence[Reward] = (),
    descriptions: Sequence[Reward] = (),
    preferred_labels: tuple[Sequence[bool] | Tensor, Sequence[bool] | Tensor] | None = None,
    caption_match: Reward | None = None,
    preferred_images: Float[Tensor, "M 3 H W"] | None = None,
    more_seeds: PairedImages | None = None,
    features: Features = pixel_features,
    trained: Collection[str] = (),
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
    thresholds: Thresholds | None = None,
) -> Results:
    """Everything `results.json` holds.

    Args:
        pairs: Images of both models on the same prompts and seeds.
        manifest: How the images were made and judged; its `tie_margin` holds for `metric`.
        metric: Score behind the headline win-rate; flagged if the run was trained on it.
        quality: Further scores that judge and were not trained on: the other scores of the flags.
        descriptions: Further scores whose fall is no bad news, such as compressibility.
        preferred_labels: Per base and per tuned image, whether it shows what the data prefers.
        caption_match: Score of image and prompt, in points; also one of these other scores.
        preferred_images: Preferred images of the training data, the goal of the drift panel.
        more_seeds: Further seeds of some of the prompts; read by the diversity between seeds alone.
        features: Space in which the diversity between seeds is measured.
        trained: Names of scores that training aimed at, or that made its labels.
        timings: Seconds by name, to be stored.
        peak_memory: Bytes, to be stored.
        thresholds: Limits of the flags; the documented ones if None.
    """
    limits = thresholds or Thresholds()
    prompts = pairs.prompts
    base, tuned = (_scores(metric, images, prompts) for images in (pairs.base, pairs.tuned))
    wins = win_rate(base, tuned, tie_margin=manifest.tie_margin, prompts=prompts)
    captions = None
    if caption_match is not None:
        captions = tuple(_scores(caption_match, images, prompts) for images in (pairs.base, pairs.tuned))
        quality = (caption_match, *quality)
    roles: tuple[tuple[Role, Sequence[Reward]], ...] = (("quality", quality), ("description", descriptions))
    scores = {
        reward.name: compare_score(pairs, reward, role="trained" if reward.name in trained else role)
        for role, rewards in roles
        for reward in rewards
    }
    rates = {
        role: {name: s.win_rate for name, s in scores.items() if s.role == role and name != metric.name}
        for role in ("trained", "quality")
    }
    shares = None
    if preferred_labels is not None:
        shares = tuple(share(labels, prompts=prompts) for labels in preferred_labels)
    panel = drift_panel(
        pairs,
        more_seeds=more_seeds,
        caption_match=None if captions is None else (captions[0], captions[1]),
        preferred=preferred_images,
        features=features,
    )
    flags = find_flags(
        panel,
        headline=(metric.name, wins),
        trained=rates["trained"] | ({metric.name: wins} if metric.name in trained else {}),
        untrained=rates["quality"],
        preferred_share=None if shares is None else (shares[0], shares[1]),
        thresholds=limits,
    )
    return Results(
        win_rate=wins,
        effect_size=effect_size(base, tuned, prompts=prompts),
        preferred_share=None if shares is None else BaseAndTuned(base=shares[0], tuned=shares[1]),
        caption_match=None if captions is None else _means(captions[0], captions[1], prompts),
        drift=Drift(panel=panel, flags=flags, limits=limits.by_name()),
        other_scores=scores,
        timings=dict(timings or {}),
        peak_memory=peak_memory,
        evaluation=manifest,
    )


def _means(base: ArrayLike, tuned: ArrayLike, prompts: Sequence[str]) -> BaseAndTuned:
    return BaseAndTuned(base=mean_estimate(base, prompts), tuned=mean_estimate(tuned, prompts))


def _scores(
    reward: Reward, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]
) -> Float[np.ndarray, " N"]:
    return reward(images, prompts).detach().double().cpu().numpy()
