"""BLIP as ImageReward uses it: a text encoder that attends to the image, on transformers' own layers.

Axes: N images, 3 channels, S side in pixels, L tokens, D features.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

_VISION = (
    (".patch_embed.proj.", ".embeddings.patch_embedding."),
    (".cls_token", ".embeddings.class_embedding"),
    (".pos_embed", ".embeddings.position_embedding"),
    (".blocks.", ".encoder.layers."),
    (".norm.", ".post_layernorm."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)


@final
class BlipEncoder(nn.Module):
    """Features of the first token of a prompt that has seen the image."""

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
        super().__init__()
        self._side: int = vision["image_size"]
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        self.text = BlipTextModel(BlipTextConfig(**text, is_decoder=True), add_pooling_layer=False)

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, dict[str, Tensor]]:
        """The encoder of a converted folder, and the weights of its head."""
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        encoder, weights = cls(sizes["vision"], sizes["text"]), load_file(folder / "model.safetensors")
        head = {name: weights.pop(name) for name in list(weights) if name.startswith("head.")}
        encoder.load_state_dict(weights)
        return encoder, head

    @property
    def side(self) -> int:
        """Side of the images that it reads, in pixels."""
        return self._side

    def forward(
        self,
        pixels: Float[Tensor, "N 3 S S"],
        ids: Int[Tensor, "N L"],
        attended: Int[Tensor, "N L"],
    ) -> Float[Tensor, "N D"]:
        """Last hidden state of the first token."""
        image = self.vision(pixels).last_hidden_state
        seen = torch.ones(image.shape[:2], dtype=torch.long, device=image.device)
        states = self.text(
            ids, attention_mask=attended, encoder_hidden_states=image, encoder_attention_mask=seen
        )
        return states.last_hidden_state[:, 0]


def encoder_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a published ImageReward file under the names of `BlipEncoder`; others are left out."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("blip.visual_encoder."):
            inner = f".{name.removeprefix('blip.visual_encoder.')}"
            for old, new in _VISION:
                inner = inner.replace(old, new)
            renamed[f"vision{inner}"] = value
        elif name.startswith("blip.text_encoder.") and not name.endswith("position_ids"):
            renamed[f"text.{name.removeprefix('blip.text_encoder.')}"] = value
    return renamed
