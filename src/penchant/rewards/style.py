"""Style: how surely an image is drawn in the preferred style, judged by the scorer that ships.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from penchant.errors import unknown
from penchant.rewards._shipped import in_chunks, shipped_scorer, shipped_version


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Probability of one drawing style; it does not read the prompt.

    The default is the style that the shipped pairs prefer. It says how an image is drawn, not how well.
    """

    style: str = "fluent"
    name = "style"
    unit = "probability"
    judges = False

    @property
    def version(self) -> str:
        """Hash of the shipped scorer, and the style."""
        return f"{shipped_version()} {self.style}"

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, in [0, 1]."""
        scorer = shipped_scorer()
        column = self._column(scorer.styles)
        return in_chunks(images, lambda pictures, part: scorer.style_probability(pictures)[:, column])

    def labels(self, images: Float[Tensor, "N 3 H W"]) -> Int[Tensor, " N"]:
        """1 where this style is the most probable of all, else 0: the labels of the preferred share."""
        scorer = shipped_scorer()
        column = self._column(scorer.styles)
        return in_chunks(
            images, lambda pictures, part: scorer.style_probability(pictures).argmax(-1) == column
        ).long()

    def _column(self, styles: Sequence[str]) -> int:
        if self.style not in styles:
            raise unknown("style", self.style, styles, where="reward style")
        return styles.index(self.style)


REWARD = Style
