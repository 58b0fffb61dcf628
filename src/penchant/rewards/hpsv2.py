"""HPSv2: the Human Preference Score, version 2.0 or 2.1.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from penchant.rewards._clip import VIT_H_TOKENIZER, towers
from penchant.rewards._pixels import in_batches, padded
from penchant.rewards._weights import version_with_tokenizer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HPSv2:
    """100 times the cosine of image and prompt; the image is padded to a square, not cut.

    Scores of 2.0 and 2.1 are not comparable. Both are published for open_clip and as pickles:
    `penchant rewards convert hpsv2` makes the folder.

    Attributes:
        model: Folder that the conversion has written, or a name on the hub in that form.
        edition: Which weights these are; part of the name under which scores are stored.
        tokenizer: Folder or name of the tokenizer of CLIP ViT-H/14.

    Source:
        Wu et al. 2023, arXiv:2306.09341, section 4; images and scale from its code.
    """

    model: str
    edition: Literal["2.0", "2.1"]
    tokenizer: str = VIT_H_TOKENIZER
    unit = "points"
    judges = True

    @property
    def name(self) -> str:
        """HPSv2.0 or HPSv2.1."""
        return f"HPSv{self.edition}"

    @property
    def version(self) -> str:
        """Hash of the model, and of a tokenizer of another name."""
        return version_with_tokenizer("reward hpsv2", self.model, self.tokenizer, usual=VIT_H_TOKENIZER)

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, mostly 22 to 34."""
        clip = towers(self.model, self.tokenizer, "reward hpsv2")
        return 100 * in_batches(images, prompts, lambda part, texts: clip.cosines(part, texts, padded))


REWARD = HPSv2
