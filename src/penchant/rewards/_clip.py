"""CLIP models of transformers: unit embeddings of images and of texts.

Axes: N images or texts, 3 channels, H W pixels, E joint embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from penchant.numerics import accelerator_or_cpu
from penchant.rewards._pixels import Fit, clip_pixels
from penchant.rewards._weights import folder_of, frozen, loaded, weights_of

VIT_H_TOKENIZER: Final = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Tokenizer of the scorers that were tuned from this CLIP ViT-H/14."""

_SAVE_AGAIN: Final = (
    "Convert it once, where you trust it: load it with transformers and call save_pretrained(folder)."
)


@final
@dataclass(frozen=True, slots=True)
class Towers:
    """A loaded CLIP model in float32 with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def scale(self) -> float:
        """Inverse temperature of its contrastive loss."""
        return self.model.logit_scale.exp().item()

    def of_images(self, images: Float[Tensor, "N 3 H W"], fit: Fit) -> Float[Tensor, "N E"]:
        """Unit vector of each image, brought to the square that the model reads by `fit`."""
        pixels = clip_pixels(images, self.model.config.vision_config.image_size, fit)
        return F.normalize(
            self.model.get_image_features(pixels.to(accelerator_or_cpu())).pooler_output, dim=-1
        )

    def of_texts(self, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """Unit vector of each text; what exceeds the model's length is cut, as its authors do."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(accelerator_or_cpu())
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)

    def cosines(
        self, images: Float[Tensor, "N 3 H W"], texts: Sequence[str], fit: Fit
    ) -> Float[Tensor, " N"]:
        """Cosine of each image and its text."""
        return (self.of_images(images, fit) * self.of_texts(texts)).sum(-1)


@cache
def towers(model: str, tokenizer: str, where: str) -> Towers:
    """A CLIP model, loaded once.

    Args:
        model: Folder, or name on the hub.
        tokenizer: The same of its tokenizer.
        where: Reward, for messages.
    """
    place = f"{where}: model"
    folder = weights_of(folder_of(model, place), place, remedy=_SAVE_AGAIN)
    words = folder_of(tokenizer, f"{where}: tokenizer")
    return Towers(
        loaded(lambda: frozen(CLIPModel.from_pretrained(folder, use_safetensors=True)), folder, place),
        loaded(lambda: CLIPTokenizer.from_pretrained(words), words, f"{where}: tokenizer"),
    )
