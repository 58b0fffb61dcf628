"""Aspect buckets: sizes of training images, all of about one area, and which of them fits an image."""

import math
from collections.abc import Sequence

Size = tuple[int, int]
"""Height and width in pixels."""


def bucket_sizes(ratios: Sequence[str], *, size: int, step: int) -> tuple[Size, ...]:
    """Height and width of each bucket; the area is about that of the square.

    Sides are rounded to the nearest multiple of the step, so that the area may differ from the square's by a
    few percent; ratios that come to the same sides are one bucket.

    Args:
        ratios: Width to height, as `4x3`.
        size: Side of the square in pixels.
        step: Sides are multiples of it, in pixels.
    """
    found = []
    for ratio in ratios:
        width, height = (int(part) for part in ratio.split("x"))
        stretch = math.sqrt(width / height)
        found.append((_rounded(size / stretch, step), _rounded(size * stretch, step)))
    return tuple(dict.fromkeys(found))


def nearest(dimensions: Size, sizes: Sequence[Size]) -> Size:
    """The size whose ratio of the sides is nearest to that of an image; the first of several.

    Ratios are compared by their logarithm, so that 1:2 and 2:1 are equally far from a square.

    Args:
        dimensions: Height and width of the image.
        sizes: What to choose from.
    """
    wanted = _log_ratio(dimensions)
    return min(sizes, key=lambda size: abs(_log_ratio(size) - wanted))


def _log_ratio(size: Size) -> float:
    return math.log(size[1] / size[0])


def _rounded(side: float, step: int) -> int:
    return max(1, round(side / step)) * step
