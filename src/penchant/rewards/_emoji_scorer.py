"""The scorer that ships: does a picture show what the caption says, and in which emoji style?

Two small towers trained contrastively on real emoji pictures, never on generated ones, and linear heads for
style and category.
Axes: N pictures, C H W pixels in [0, 1], D features, E joint embedding, T tokens.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@final
class ConvBlock(nn.Module):
    """Residual pair of 3 x 3 convolutions; the first may halve the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, stride, stride, bias=False)
            if inputs != outputs or stride > 1
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H2 W2"]:
        """Same picture, `outputs` channels."""
        inner = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(inner + self.shortcut(x))


@final
class ImageTower(nn.Module):
    """Residual network for 64 x 64 pixels; its features are the last maps, averaged over a 2 x 2 grid."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        pairs = list(zip(widths, widths[1:], strict=False))
        self.blocks = nn.Sequential(
            *[ConvBlock(inputs, outputs, 2) for inputs, outputs in pairs],
            ConvBlock(widths[-1], widths[-1], 1),
        )
        self.num_features = widths[-1] * 4

    def forward(self, images: Float[Tensor, "N 3 64 64"]) -> Float[Tensor, "N D"]:
        """Features of pictures in [0, 1]."""
        maps = self.blocks(F.relu(self.stem_norm(self.stem(2 * images - 1))))
        return F.adaptive_avg_pool2d(maps, 2).flatten(1)


@final
class TextTower(nn.Module):
    """Transformer over caption tokens, averaged over the words."""

    def __init__(
        self, *, num_tokens: int, max_length: int, width: int, num_layers: int, num_heads: int
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(torch.randn(max_length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 3 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, num_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, ids: Int[Tensor, "N T"], words: Float[Tensor, "N T"]) -> Float[Tensor, "N width"]:
        """Mean of the outputs where `words` is 1."""
        states = self.layers(self.token(ids) + self.position[: ids.shape[1]], src_key_padding_mask=words == 0)
        return (states * words[..., None]).sum(1) / words.sum(1, keepdim=True)


@final
class EmojiScorer(nn.Module):
    """Judge of emoji pictures: caption match, style and category."""

    def __init__(self, config: dict, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.styles: tuple[str, ...] = tuple(config["styles"])
        self.categories: tuple[str, ...] = tuple(config["categories"])
        self.image_tower = ImageTower(config["image_widths"])
        self.text_tower = TextTower(**config["text"])
        self.image_projection = nn.Linear(self.image_tower.num_features, config["embedding"], bias=False)
        self.text_projection = nn.Linear(config["text"]["width"], config["embedding"], bias=False)
        self.style_head = nn.Linear(self.image_tower.num_features, len(self.styles))
        self.category_head = nn.Linear(self.image_tower.num_features, len(self.categories))
        self.log_scale = nn.Parameter(torch.tensor(2.5))  # inverse temperature of the contrastive loss

    @classmethod
    def load(cls, folder: Path | None = None) -> Self:
        """The trained scorer, in float32, frozen and in evaluation mode.

        Args:
            folder: Holds config.json, model.safetensors and tokenizer/; the scorer that ships if None.
        """
        folder = ASSETS / "emoji-scorer" if folder is None else folder
        scorer = cls(
            json.loads((folder / "config.json").read_text()),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        )
        weights = load_file(folder / "model.safetensors")
        scorer.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
        )
        return scorer.requires_grad_(False).eval()

    def tokens(self, captions: Sequence[str]) -> tuple[Int[Tensor, "N T"], Float[Tensor, "N T"]]:
        """Ids and word mask of captions; what exceeds the longest length is cut."""
        length = self.config["text"]["max_length"]
        encoded = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        device = self.log_scale.device
        return encoded.input_ids.to(device), encoded.attention_mask.to(device).float()

    def features(self, images: Float[Tensor, "N 3 64 64"]) -> Float[Tensor, "N D"]:
        """What the heads see; distances between features are perceptual distances."""
        return self.image_tower(images)

    def image_embedding(self, images: Float[Tensor, "N 3 64 64"]) -> Float[Tensor, "N E"]:
        """Unit vector of each picture in the space shared with captions."""
        return F.normalize(self.image_projection(self.features(images)), dim=-1)

    def text_embedding(self, captions: Sequence[str]) -> Float[Tensor, "N E"]:
        """Unit vector of each caption in the space shared with pictures."""
        return F.normalize(self.text_projection(self.text_tower(*self.tokens(captions))), dim=-1)

    def caption_match(
        self, images: Float[Tensor, "N 3 64 64"], captions: Sequence[str]
    ) -> Float[Tensor, " N"]:
        """Cosine of each picture with its own caption, in [-1, 1]; blind to the style by training."""
        return (self.image_embedding(images) * self.text_embedding(captions)).sum(-1)

    def style_probability(self, images: Float[Tensor, "N 3 64 64"]) -> Float[Tensor, "N styles"]:
        """Probability of each style of `styles`."""
        return self.style_head(self.features(images)).softmax(-1)
