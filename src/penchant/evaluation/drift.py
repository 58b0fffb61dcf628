"""Drift panel: how the pictures themselves changed between base and tuned model, on equal seeds.

Axes: N images, 3 channels, H W pixels, P prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from penchant.evaluation.intervals import checked, mean_estimate, prompt_index

EDGE_STEP = 0.1
"""Two neighbouring pixels whose luma differs by more than this form an edge."""

COLOUR_LEVELS = 8
"""Levels per channel of the colour histogram; 8 gives 512 colours and at most 9 bits."""

_IMAGES_AT_ONCE = 32
_POWER_FLOOR = 1e-12


def luma(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N H W"]:
    """Brightness 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    red, green, blue = images.unbind(dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def saturation(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Mean HSV saturation, (max - min) / max of the three channels; 0 for grey and for black."""
    brightest, darkest = images.amax(dim=1), images.amin(dim=1)
    return ((brightest - darkest) / brightest.clamp_min(1e-6)).flatten(1).mean(dim=1)


def contrast(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Root-mean-square contrast: standard deviation of the luma over the pixels, at most 0.5."""
    return luma(images).flatten(1).std(dim=1, correction=0)


def edge_density(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Share of neighbouring pixels, across and down, whose luma differs by more than `EDGE_STEP`."""
    brightness = luma(images)
    across = brightness.diff(dim=2).abs() > EDGE_STEP
    down = brightness.diff(dim=1).abs() > EDGE_STEP
    count = across.flatten(1).sum(dim=1) + down.flatten(1).sum(dim=1)
    return count / (across[0].numel() + down[0].numel())


def colour_entropy(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Entropy of the histogram over `COLOUR_LEVELS` levels per channel, in bits; 0 for one flat colour."""
    level = (images * COLOUR_LEVELS).long().clamp(0, COLOUR_LEVELS - 1)
    colour = ((level[:, 0] * COLOUR_LEVELS + level[:, 1]) * COLOUR_LEVELS + level[:, 2]).flatten(1)
    histogram = torch.zeros(len(images), COLOUR_LEVELS**3)
    histogram.scatter_add_(1, colour.cpu(), torch.ones(colour.shape))
    return torch.special.entr(histogram / colour.shape[1]).sum(dim=1) / np.log(2)


def spectrum_slope(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Slope of log power against log frequency of the luma, power averaged over rings of equal frequency.

    Natural pictures lie near -2 to -3; added grain, grids and sharpening make it flatter (nearer to 0), blur
    steeper. Least squares over the rings from one cycle per picture up to half the sampling rate.
    """
    brightness = luma(images).double()
    height, width = brightness.shape[-2:]
    power = torch.fft.fft2(brightness - brightness.mean(dim=(1, 2), keepdim=True)).abs().square()
    vertical, horizontal = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    size = min(height, width)
    ring = ((vertical[:, None].square() + horizontal.square()).sqrt() * size).round().long().flatten()
    rings = torch.arange(1, size // 2 + 1)
    sums = torch.zeros(len(images), int(ring.max()) + 1, dtype=torch.float64)
    sums.index_add_(1, ring, power.flatten(1).cpu())
    mean_power = sums[:, rings] / torch.bincount(ring)[rings]
    x = rings.double().log() - rings.double().log().mean()
    return ((mean_power.clamp_min(_POWER_FLOOR).log() * x).sum(dim=1) / x.square().sum()).float()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PairedImages:
    """Images of both models; row i of both has the same prompt and the same seed. Values in [0, 1]."""

    base: Float[Tensor, "N 3 H W"]
    tuned: Float[Tensor, "N 3 H W"]
    prompts: Sequence[str]


Features = Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, "N D"]]


def pixel_features(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    """The pixels, scaled so that the distance of two images is their root-mean-square difference."""
    flat = images.flatten(1)
    return flat / flat.shape[1] ** 0.5


def diversity_between_seeds(
    images: Float[Tensor, "N 3 H W"], prompts: Sequence[str], *, features: Features = pixel_features
) -> Float[np.ndarray, " P"]:
    """Mean distance between the images of a prompt over all pairs of its seeds, for prompts with two or more.

    Args:
        images: Values in [0, 1].
        prompts: Prompt of each image.
        features: Maps images to vectors; the distance is Euclidean.

    Returns:
        One value per prompt with several images, prompts in alphabetical order; empty if there is none.
    """
    return _spread(_in_chunks(features, images), prompts)


def _spread(vectors: Float[Tensor, "N D"], prompts: Sequence[str]) -> Float[np.ndarray, " P"]:
    vectors = vectors.double()
    index = torch.from_numpy(np.asarray(prompt_index(prompts, len(vectors))))
    values = []
    for prompt in range(int(index.max()) + 1):
        rows = vectors[index == prompt]
        distances = [float((rows[i] - rows[j]).norm()) for i, j in combinations(range(len(rows)), 2)]
        if distances:
            values.append(sum(distances) / len(distances))
    return np.array(values, dtype=np.float64)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DriftMeasure:
    """One line of the drift panel.

    `difference` is the mean of tuned minus base, with a paired bootstrap 95 % interval over prompts;
    `relative_change` is the difference over the size of the base mean, None if that is 0; `preferred` is the
    mean on preferred images of the data, None if none were given: where a change may rightly lead.
    """

    name: str
    unit: str
    base: float
    tuned: float
    difference: float
    low: float
    high: float
    relative_change: float | None
    preferred: float | None


PICTURE_MEASURES: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("saturation", "0 to 1", saturation),
    ("contrast", "standard deviation", contrast),
    ("edge density", "share of neighbours", edge_density),
    ("colour entropy", "bits", colour_entropy),
    ("spectrum slope", "log power / log frequency", spectrum_slope),
)
"""Name, unit and function of the measures that read one image."""

DIVERSITY = "diversity between seeds"
CAPTION_MATCH = "caption match"


def drift_measure(
    name: str,
    unit: str,
    base: ArrayLike,
    tuned: ArrayLike,
    *,
    prompts: Sequence[str] | None = None,
    preferred: float | None = None,
    seed: int = 0,
) -> DriftMeasure:
    """One line of the panel from paired values.

    Args:
        name: What is measured.
        unit: Its unit.
        base: Value per image of the base model.
        tuned: Value per image of the tuned model, same order.
        prompts: Prompt of each image; None if each has its own.
        preferred: Mean on preferred images of the data.
        seed: Key of the bootstrap.
    """
    first, second = checked(base, where=f"{name} of base"), checked(tuned, where=f"{name} of tuned")
    change = mean_estimate(second - first, prompts, seed=seed)
    level = float(first.mean())
    return DriftMeasure(
        name=name,
        unit=unit,
        base=level,
        tuned=float(second.mean()),
        difference=change.value,
        low=change.low,
        high=change.high,
        relative_change=change.value / abs(level) if abs(level) > 1e-9 else None,
        preferred=preferred,
    )


def drift_panel(
    pairs: PairedImages,
    *,
    more_seeds: PairedImages | None = None,
    caption_match: tuple[ArrayLike, ArrayLike] | None = None,
    preferred: Float[Tensor, "M 3 H W"] | None = None,
    features: Features = pixel_features,
    seed: int = 0,
) -> tuple[DriftMeasure, ...]:
    """All measures on paired images.

    Args:
        pairs: The images.
        more_seeds: Further seeds of some of the prompts; read by the diversity between seeds alone.
        caption_match: Caption match of each base and each tuned image, in points.
        preferred: Preferred images of the training data: a change towards their mean is what was asked for.
        features: Space of the diversity between seeds; the line is left out if every prompt has one image.
        seed: Key of the bootstrap.
    """
    base, tuned, prompts = pairs.base, pairs.tuned, pairs.prompts
    if base.shape != tuned.shape:
        raise ValueError(f"base and tuned images: need the same shape, got {base.shape} and {tuned.shape}")
    panel = []
    for name, unit, measure in PICTURE_MEASURES:
        goal = None if preferred is None else float(_in_chunks(measure, preferred).double().mean())
        values = [_in_chunks(measure, images).double().numpy() for images in (base, tuned)]
        panel.append(drift_measure(name, unit, *values, prompts=prompts, preferred=goal, seed=seed))
    sides, names = [[base], [tuned]], [*prompts]
    if more_seeds is not None:
        sides = [[base, more_seeds.base], [tuned, more_seeds.tuned]]
        names += more_seeds.prompts
    spread = [_spread(_in_chunks(features, *stacks), names) for stacks in sides]
    if len(spread[0]):
        panel.append(drift_measure(DIVERSITY, "mean distance", *spread, seed=seed))
    if caption_match is not None:
        panel.append(drift_measure(CAPTION_MATCH, "points", *caption_match, prompts=prompts, seed=seed))
    return tuple(panel)


def _in_chunks(measure: Callable[[Tensor], Tensor], *stacks: Float[Tensor, "N 3 H W"]) -> Tensor:
    """`measure` of all images, a few at a time, so that large images fit in memory.

    Several stacks are cut as if they were one, because networks round differently for another batch size.
    """
    firsts = [0, *accumulate(len(images) for images in stacks)]
    values = []
    with torch.no_grad():
        for start in range(0, max(firsts[-1], 1), _IMAGES_AT_ONCE):
            spans = [
                (max(start - first, 0), max(start + _IMAGES_AT_ONCE - first, 0)) for first in firsts[:-1]
            ]
            parts = [images[a:b] for images, (a, b) in zip(stacks, spans, strict=True)]
            values.append(measure(torch.cat([part.detach().float().cpu() for part in parts])))
    return torch.cat(values)
