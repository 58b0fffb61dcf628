"""Caption match: does an image show what its prompt says, judged by the scorer that ships with the library.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from penchant.rewards._shipped import in_chunks, shipped_scorer, shipped_version


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionMatch:
    """100 times the cosine of image and prompt in the space of the shipped scorer, so one point is 0.01.

    The scorer was trained on real emoji pictures, never on generated ones, and is blind to their style.

    Source:
        The form of CLIPScore, Hessel et al. 2021, arXiv:2104.08718, without its factor and its cut at 0.
    """

    name = "caption match"
    unit = "points"
    judges = True

    @property
    def version(self) -> str:
        """Hash of the shipped scorer."""
        return shipped_version()

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, in [-100, 100]."""
        scorer = shipped_scorer()
        return in_chunks(images, lambda pictures, part: 100 * scorer.caption_match(pictures, prompts[part]))


REWARD = CaptionMatch
