"""CLIPScore: how well an image fits its prompt, by a CLIP model.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from penchant.rewards._clip import towers
from penchant.rewards._pixels import cropped, in_batches
from penchant.rewards._weights import version_of

PREFIX = "A photo depicts "


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScore:
    """2.5 max(cos(image, "A photo depicts " + prompt), 0), with ViT-B/32 unless told otherwise.

    Many papers call 100 cos without the prefix "CLIP score"; that is another number.

    Attributes:
        model: CLIP model with its tokenizer: a folder, or `owner/name@revision` on the hub.

    Source:
        Hessel et al. 2021, arXiv:2104.08718, eq. 1 and section 3; prefix and images from its code.
    """

    model: str = "openai/clip-vit-base-patch32"
    name = "CLIPScore"
    unit = "2.5 cos"
    judges = True

    @property
    def version(self) -> str:
        """Hash of the model."""
        return version_of("reward clip-score: model", self.model)

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, in [0, 2.5]; mostly 0.6 to 0.9."""
        clip = towers(self.model, self.model, "reward clip-score")

        def score(pictures: Tensor, texts: Sequence[str]) -> Tensor:
            return clip.cosines(pictures, [PREFIX + text for text in texts], cropped)

        return 2.5 * in_batches(images, prompts, score).clamp(min=0)


REWARD = ClipScore
