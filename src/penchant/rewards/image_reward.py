"""ImageReward: a BLIP model that reads prompt and image together.

Axes: N images, 3 channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, final

from jaxtyping import Float
from torch import Tensor
from transformers import BertTokenizer

from penchant.numerics import accelerator_or_cpu
from penchant.rewards._blip import BlipEncoder
from penchant.rewards._linear_head import head_score
from penchant.rewards._pixels import clip_pixels, cropped, in_batches
from penchant.rewards._weights import folder_of, frozen, loaded, version_with_tokenizer, weights_of

MEAN: Final = 0.16717362830052426
DEVIATION: Final = 1.0333394966054072
"""Mean and deviation of the head's output over the authors' validation set; from their code."""

_TOKENIZER: Final = "google-bert/bert-base-uncased"
_LENGTH: Final = 35
_WHERE: Final = "reward image-reward: model"
_REMEDY: Final = "Convert the published file once: `penchant rewards convert image-reward FILE.pt FOLDER`."


@cache
def _encoder(model: str) -> tuple[BlipEncoder, dict[str, Tensor]]:
    folder = weights_of(folder_of(model, _WHERE), _WHERE, remedy=_REMEDY)
    encoder, head = loaded(lambda: BlipEncoder.load(folder), folder, _WHERE)
    return frozen(encoder), {name: value.float().to(accelerator_or_cpu()) for name, value in head.items()}


@cache
def _tokenizer(tokenizer: str) -> Any:
    place = "reward image-reward: tokenizer"
    folder = folder_of(tokenizer, place)
    return loaded(lambda: BertTokenizer.from_pretrained(folder), folder, place)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReward:
    """(head(first token) - 0.167) / 1.033: about standard normal on the authors' data, without bounds.

    Published as a pickle: `penchant rewards convert image-reward` makes the folder.

    Attributes:
        model: Folder that the conversion has written, or a name on the hub in that form.
        tokenizer: Folder or name of BERT's uncased tokenizer.

    Source:
        Xu et al. 2023, arXiv:2304.05977, section 3.2; head, length and images from its code.
    """

    model: str
    tokenizer: str = _TOKENIZER
    name = "ImageReward"
    unit = "standard deviations"
    judges = True

    @property
    def version(self) -> str:
        """Hash of the model, and of a tokenizer of another name."""
        return version_with_tokenizer("reward image-reward", self.model, self.tokenizer, usual=_TOKENIZER)

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image, mostly -2.3 to 2; prompts are cut after 35 tokens."""
        (encoder, head), tokenizer = _encoder(self.model), _tokenizer(self.tokenizer)

        def score(pictures: Tensor, texts: Sequence[str]) -> Tensor:
            pixels = clip_pixels(pictures, encoder.side, cropped).to(accelerator_or_cpu())
            tokens = tokenizer(
                list(texts), padding=True, truncation=True, max_length=_LENGTH, return_tensors="pt"
            ).to(accelerator_or_cpu())
            return head_score(encoder(pixels, tokens.input_ids, tokens.attention_mask), head)

        return (in_batches(images, prompts, score) - MEAN) / DEVIATION


REWARD = ImageReward
