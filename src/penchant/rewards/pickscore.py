"""PickScore: which image of a prompt people would pick.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from penchant.rewards._clip import VIT_H_TOKENIZER, towers
from penchant.rewards._pixels import cropped, in_batches
from penchant.rewards._weights import version_with_tokenizer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PickScore:
    """Cosine of image and prompt times the model's own scale, about 100.

    A difference of 1 means that 73 % would pick the better image: sigmoid(1).

    Attributes:
        model: The tuned CLIP ViT-H/14: a folder, or `owner/name@revision` on the hub.
        tokenizer: Folder or name of its tokenizer.

    Source:
        Kirstain et al. 2023, arXiv:2305.01569, eq. 1.
    """

    model: str = "yuvalkirstain/PickScore_v1"
    tokenizer: str = VIT_H_TOKENIZER
    name = "PickScore"
    unit = "points"
    judges = True

    @property
    def version(self) -> str:
        """Hash of the model, and of a tokenizer of another name."""
        return version_with_tokenizer("reward pickscore", self.model, self.tokenizer, usual=VIT_H_TOKENIZER)

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, mostly 19 to 24."""
        clip = towers(self.model, self.tokenizer, "reward pickscore")
        return clip.scale * in_batches(
            images, prompts, lambda part, texts: clip.cosines(part, texts, cropped)
        )


REWARD = PickScore
