"""The scorer that ships with the library, loaded once, and pictures cut to the size it reads."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.hub import model_hash

if TYPE_CHECKING:
    from penchant.rewards._emoji_scorer import EmojiScorer

PICTURE_SIZE = 64

_IMAGES_AT_ONCE = 64


@cache
def shipped_scorer() -> "EmojiScorer":
    """The scorer that ships; frozen, in evaluation mode."""
    from penchant.rewards._emoji_scorer import EmojiScorer

    return EmojiScorer.load()


@cache
def shipped_version() -> str:
    """First 16 hex digits of the hash of the scorer that ships."""
    from penchant.rewards._emoji_scorer import ASSETS

    return model_hash(ASSETS / "emoji-scorer")[:16]


def perceptual_features(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    """What the shipped scorer's image tower sees; distances between rows are perceptual distances."""
    scorer = shipped_scorer()
    return in_chunks(images, lambda pictures, part: scorer.features(pictures))


def in_chunks(
    images: Float[Tensor, "N 3 H W"], score: Callable[[Float[Tensor, "n 3 64 64"], slice], Tensor]
) -> Float[Tensor, " N"]:
    """Scores of all images, a few at a time, each resized to the 64 x 64 pixels the scorer was trained on.

    Args:
        images: Values in [0, 1].
        score: Scores some resized images; the slice says which they are.
    """
    scores = []
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        part = slice(start, min(start + _IMAGES_AT_ONCE, len(images)))
        pictures = images[part].detach().float()
        if pictures.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
            pictures = F.interpolate(pictures, size=PICTURE_SIZE, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            scores.append(score(pictures, part).float())
    return torch.cat(scores) if scores else torch.zeros(0)
