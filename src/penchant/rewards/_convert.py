"""Published weights of scorers, pickles as they are, written once as safetensors in the form that we load."""

import json
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from penchant.errors import ModelError
from penchant.files import give_usual_rights
from penchant.rewards._blip import BlipEncoder, encoder_keys
from penchant.rewards._linear_head import head_keys

_BLOCK: Final = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}
_OUTSIDE: Final = {
    "logit_scale": "logit_scale",
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    **{
        f"{old}.{part}": f"{new}.{part}"
        for old, new in {
            "ln_final": "text_model.final_layer_norm",
            "visual.ln_pre": "vision_model.pre_layrnorm",
            "visual.ln_post": "vision_model.post_layernorm",
        }.items()
        for part in ("weight", "bias")
    },
}


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote, with its reader that builds nothing but tensors.

    Raises:
        ModelError: It cannot be read so, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path}: missing, damaged, or more than plain tensors, and not read further. Give the published "
            "weight file, whole and unchanged."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: holds no state dict of tensors. Give the published weight file.")
    return state


def write_hpsv2(state: Mapping[str, Tensor], folder: Path) -> None:
    """CLIP ViT-H/14 of open_clip as a CLIPModel of transformers."""
    clip_of_open_clip(state, vision_heads=16, text_heads=16).save_pretrained(folder)


def write_aesthetic(state: Mapping[str, Tensor], folder: Path) -> None:
    """The layers of the aesthetic head."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_contiguous(head_keys(state, prefix="layers.")), folder / "model.safetensors")


def write_image_reward(
    state: Mapping[str, Tensor], folder: Path, *, vision_heads: int = 16, text_heads: int = 12
) -> None:
    """BLIP ViT-L and the head of ImageReward, with the sizes that its weights have."""
    weights = encoder_keys(state)
    sizes = _blip_sizes(weights, vision_heads=vision_heads, text_heads=text_heads)
    BlipEncoder(sizes["vision"], sizes["text"]).load_state_dict(weights)
    folder.mkdir(parents=True, exist_ok=True)
    weights |= head_keys(state, prefix="mlp.layers.")
    save_file(_contiguous(weights), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


WRITERS: Final[Mapping[str, Callable[[Mapping[str, Tensor], Path], None]]] = {
    "aesthetic": write_aesthetic,
    "hpsv2": write_hpsv2,
    "image-reward": write_image_reward,
}
"""Scorers that are published as pickles, and what writes each in our form."""


def convert(kind: str, source: Path, folder: Path) -> None:
    """Write the weights of a published scorer as safetensors; the folder is whole or not there.

    Args:
        kind: A key of `WRITERS`.
        source: The published file.
        folder: New folder for `model.safetensors` and its configuration.

    Raises:
        ModelError: The folder exists, or the file is damaged or of another scorer.
    """
    if folder.exists():
        raise ModelError(f"{folder}: exists already. Choose another name.")
    state = read_pickle(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
        partial = Path(scratch) / folder.name
        try:
            WRITERS[kind](state, partial)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{source}: not the weights of {kind} ({reason}). Give the published file."
            ) from error
        give_usual_rights(partial)
        partial.rename(folder)


def clip_of_open_clip(state: Mapping[str, Tensor], *, vision_heads: int, text_heads: int) -> CLIPModel:
    """A CLIPModel with the weights of an open_clip state dict, in the sizes that they have.

    Args:
        state: Weights by open_clip's names.
        vision_heads: Attention heads of the image tower; the weights do not tell them.
        text_heads: The same of the text tower.
    """
    model = CLIPModel(_clip_config(state, vision_heads=vision_heads, text_heads=text_heads))
    model.load_state_dict(_clip_keys(state))
    return model


def _clip_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        if name in _OUTSIDE:
            projection = name in ("text_projection", "visual.proj")
            renamed[_OUTSIDE[name]] = value.T if projection else value
            continue
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        _, found, block = name.partition("transformer.resblocks.")
        if not found:
            raise KeyError(f"unknown weight {name!r}")
        number, _, inner = block.partition(".")
        place = f"{tower}.encoder.layers.{number}"
        if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
            part = inner.removeprefix("attn.in_proj_")
            for side, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{place}.self_attn.{side}_proj.{part}"] = piece
            continue
        old = next((old for old in _BLOCK if inner.startswith(old)), None)
        if old is None:
            raise KeyError(f"unknown weight {name!r}")
        renamed[f"{place}.{_BLOCK[old]}{inner.removeprefix(old)}"] = value
    return renamed


def _clip_config(state: Mapping[str, Tensor], *, vision_heads: int, text_heads: int) -> CLIPConfig:
    vocabulary, text_width = state["token_embedding.weight"].shape
    vision_width, _, patch, _ = state["visual.conv1.weight"].shape
    places = state["visual.positional_embedding"].shape[0] - 1
    text = {
        "vocab_size": vocabulary,
        "hidden_size": text_width,
        "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _blocks(state, "transformer.resblocks."),
        "num_attention_heads": text_heads,
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "hidden_act": "gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    vision = {
        "hidden_size": vision_width,
        "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _blocks(state, "visual.transformer.resblocks."),
        "num_attention_heads": vision_heads,
        "image_size": patch * round(places**0.5),
        "patch_size": patch,
        "hidden_act": "gelu",
    }
    embedding = state["text_projection"].shape[1]
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=embedding)


def _blip_sizes(weights: Mapping[str, Tensor], *, vision_heads: int, text_heads: int) -> dict[str, Any]:
    width, _, patch, _ = weights["vision.embeddings.patch_embedding.weight"].shape
    places = weights["vision.embeddings.position_embedding"].shape[1] - 1
    vocabulary, text_width = weights["text.embeddings.word_embeddings.weight"].shape
    return {
        "vision": {
            "hidden_size": width,
            "intermediate_size": weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _blocks(weights, "vision.encoder.layers."),
            "num_attention_heads": vision_heads,
            "image_size": patch * round(places**0.5),
            "patch_size": patch,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
        "text": {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "encoder_hidden_size": width,
            "intermediate_size": weights["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
            "num_hidden_layers": _blocks(weights, "text.encoder.layer."),
            "num_attention_heads": text_heads,
            "max_position_embeddings": weights["text.embeddings.position_embeddings.weight"].shape[0],
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
        },
    }


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})


def _contiguous(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors demands."""
    return {name: value.detach().clone().contiguous() for name, value in weights.items()}
