"""Images as the published scorers read them: 8 bits, Pillow's bicubic resize, CLIP's mean and deviation.

Axes: N images, 3 channels, H W pixels, S side of the square that a network reads.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from penchant.numerics import eight_bit

IMAGES_AT_ONCE = 16

Fit = Callable[[Image.Image, int], Image.Image]
"""Brings a picture to a square of a side in pixels."""

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def cropped(picture: Image.Image, side: int) -> Image.Image:
    """The middle square: short side resized to `side`, long side cut.

    If the surplus is odd, the extra pixel comes off the bottom or right.
    """
    short, long = sorted(picture.size)
    other = int(side * long / short)
    width, height = (side, other) if picture.width <= picture.height else (other, side)
    left, top = (width - side) // 2, (height - side) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def padded(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture in the middle of a black square: long side resized to `side`."""
    width, height = (max(1, round(edge * side / max(picture.size))) for edge in picture.size)
    square = Image.new("RGB", (side, side))
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((side - width) // 2, (side - height) // 2))
    return square


def clip_pixels(images: Float[Tensor, "N 3 H W"], side: int, fit: Fit) -> Float[Tensor, "N 3 S S"]:
    """Images as a CLIP or BLIP image tower reads them.

    Source:
        Radford et al. 2021 (CLIP), arXiv:2103.00020; mean and deviation from its code.
    """
    pictures = [np.asarray(fit(Image.fromarray(pixels), side)) for pixels in eight_bit(images).numpy()]
    squares = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (squares - mean) / deviation


@torch.no_grad()
def in_batches(
    images: Float[Tensor, "N 3 H W"],
    prompts: Sequence[str],
    score: Callable[[Float[Tensor, "n 3 H W"], Sequence[str]], Tensor],
) -> Float[Tensor, " N"]:
    """Scores of all images, a few at a time, in float32 on the CPU."""
    scores = [
        score(images[start : start + IMAGES_AT_ONCE], prompts[start : start + IMAGES_AT_ONCE]).float().cpu()
        for start in range(0, len(images), IMAGES_AT_ONCE)
    ]
    return torch.cat(scores) if scores else torch.zeros(0)
