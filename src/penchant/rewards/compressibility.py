"""Compressibility: images that JPEG stores in few bytes score high.

Axes: N images, 3 channels, H W pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from penchant.numerics import eight_bit


def jpeg_bytes(images: Float[Tensor, "N 3 H W"], *, quality: int) -> list[int]:
    """Size of every image as a JPEG file, in bytes.

    Args:
        images: Values in [0, 1]; rounded to 8 bits before they are encoded.
        quality: Quality of the JPEG encoder, 1 to 95.
    """
    sizes = []
    for picture in eight_bit(images).numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
        sizes.append(buffer.tell())
    return sizes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Compressibility:
    """Minus the size of the image as JPEG of quality 95, in kB of 1000 bytes.

    It needs no weights and ignores the prompt, so it shows whether a run can learn any reward at all. It
    describes an image rather than judging it.

    Source:
        Black et al. 2023 (DDPO), arXiv:2305.13301, section 5.1; quality and unit from its code.
    """

    name = "compressibility"
    unit = "kB"
    judges = False
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be in [1, 95], got {self.quality}")

    @property
    def version(self) -> str:
        """Quality of the encoder."""
        return f"quality {self.quality}"

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, at most 0; the prompts are not read."""
        sizes = jpeg_bytes(images, quality=self.quality)
        return torch.tensor([-size / 1000 for size in sizes], dtype=torch.float32)


REWARD = Compressibility
