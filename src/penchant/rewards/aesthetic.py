"""LAION aesthetics, version 2: how much people like an image by itself.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from penchant.numerics import accelerator_or_cpu
from penchant.rewards._clip import towers
from penchant.rewards._linear_head import head_score
from penchant.rewards._pixels import cropped, in_batches
from penchant.rewards._weights import folder_of, loaded, version_of, weights_of

_REMEDY = "Convert the published file once: `penchant rewards convert aesthetic FILE.pth FOLDER`."


@cache
def _head(model: str) -> Mapping[str, Tensor]:
    place = "reward aesthetic: model"
    folder = weights_of(folder_of(model, place), place, remedy=_REMEDY)
    weights = loaded(lambda: load_file(folder / "model.safetensors"), folder, place)
    return {name: value.float().to(accelerator_or_cpu()) for name, value in weights.items()}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Aesthetic:
    """Linear head on the unit image embedding of CLIP ViT-L/14; it does not read the prompt.

    It likes painterly images. The head (sac+logos+ava1-l14-linearMSE) is published as a pickle:
    `penchant rewards convert aesthetic` makes the folder.

    Attributes:
        model: Folder of the head that the conversion has written, or a name on the hub in that form.
        clip: CLIP ViT-L/14 with its tokenizer: a folder, or `owner/name@revision` on the hub.

    Source:
        Schuhmann et al. 2022 (LAION-5B), arXiv:2210.08402, section 3; the head from
        improved-aesthetic-predictor.
    """

    model: str
    clip: str = "openai/clip-vit-large-patch14"
    name = "LAION aesthetic"
    unit = "points"
    judges = True

    @property
    def version(self) -> str:
        """Hashes of the head and of CLIP."""
        return version_of("reward aesthetic: model", self.model, self.clip)

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, mostly 4.5 to 6.8; the prompts are not read."""
        head, clip = _head(self.model), towers(self.clip, self.clip, "reward aesthetic")
        return in_batches(images, prompts, lambda part, _: head_score(clip.of_images(part, cropped), head))


REWARD = Aesthetic
