"""Colourfulness: how vivid and varied the colours of an image look.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor


def hasler_suesstrunk(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Colourfulness metric of natural images.

    M = sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2), with rg = R - G and yb = (R + G) / 2 - B; s is the
    standard deviation over the pixels (divided by their number) and m the mean.

    Args:
        images: Values in [0, 1]; the metric is defined on 0 to 255.

    Returns:
        0 for a grey image; about 15 slightly, 45 averagely and 109 extremely colourful.

    Source:
        Hasler and Suesstrunk 2003, Measuring colourfulness in natural images, section 7.
    """
    red, green, blue = (images.detach().float() * 255).unbind(dim=1)
    red_green = (red - green).flatten(1)
    yellow_blue = ((red + green) / 2 - blue).flatten(1)
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    return spread + 0.3 * (red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()).sqrt()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Colourfulness:
    """`hasler_suesstrunk` as a reward; it ignores the prompt and describes an image, it does not judge it."""

    name = "colourfulness"
    unit = "M"
    version = "1"
    judges = False

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, at least 0; the prompts are not read."""
        return hasler_suesstrunk(images)


REWARD = Colourfulness
