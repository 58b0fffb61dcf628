"""Settings that fit GPUs of 16, 24, 48 and 80 GB: estimates, for four models in their published shapes.

One step of each model is rehearsed with tensors that have sizes and no content, so that no weights, no GPU
and hardly any memory are needed. Peaks grow by the same amount with each further pair: one and two pairs
are rehearsed.

    python benchmarks/presets.py
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penchant import families
from penchant.families import tiny
from penchant.runs.assemble import method_of
from penchant.runs.load import check
from penchant.runs.memory import rehearsed

GPUS = (16, 24, 48, 80)
USABLE = 0.85
"""Share of a GPU's memory that tensors may take; the rest is for CUDA, gaps, and what is not counted."""
MOST = 16
"""Pairs of a micro-batch that are enough."""
LORA_LADDER: list[dict[str, Any]] = [
    {},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "quantized": "int8"},
    {"gradient_checkpointing": True, "quantized": "nf4"},
]
FULL_LADDER: list[dict[str, Any]] = [
    {"reference": {"kind": "cached"}},
    {"reference": {"kind": "cached"}, "gradient_checkpointing": True},
    {"reference": {"kind": "cached"}, "gradient_checkpointing": True, "optimizer": "adamw-8bit"},
    {"reference": {"kind": "cached"}, "gradient_checkpointing": True, "optimizer": "adafactor"},
]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model in its published shape.

    Attributes:
        build: Writes a tiny one of the same family.
        part: Its denoiser.
        config: What its denoiser's configuration says otherwise.
        size: Side of its images in pixels, for the table.
        told: Shapes of what the denoiser is told of one image.
    """

    build: Callable[[Path], Path]
    part: str
    config: dict[str, Any]
    size: int
    told: dict[str, tuple[int, ...]]


MODELS = {
    "SD 1.5": Published(
        build=tiny.stable_diffusion,
        part="unet",
        config={
            "sample_size": 64,
            "layers_per_block": 2,
            "block_out_channels": (320, 640, 1280, 1280),
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "norm_num_groups": 32,
        },
        size=512,
        told={"prompt": (77, 768)},
    ),
    "SDXL": Published(
        build=tiny.stable_diffusion_xl,
        part="unet",
        config={
            "sample_size": 128,
            "layers_per_block": 2,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "norm_num_groups": 32,
        },
        size=1024,
        told={"prompt": (77, 2048), "pooled": (1280,), "time_ids": (6,)},
    ),
    "SD 3 Medium": Published(
        build=tiny.stable_diffusion_3,
        part="transformer",
        config={
            "sample_size": 128,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
            "in_channels": 16,
            "out_channels": 16,
        },
        size=1024,
        told={"prompt": (333, 4096), "pooled": (2048,)},
    ),
    "FLUX.1 dev": Published(
        build=tiny.flux,
        part="transformer",
        config={
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "in_channels": 64,
            "axes_dims_rope": (16, 56, 56),
            "guidance_embeds": True,
        },
        size=1024,
        told={"prompt": (512, 4096), "pooled": (768,)},
    ),
}


def peaks(model: Published, training: dict[str, Any]) -> tuple[float, float]:
    """GiB at the peak with one pair at once, and for each further pair."""
    with tempfile.TemporaryDirectory() as place:
        folder = model.build(Path(place) / "model")
        path = folder / model.part / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | model.config), encoding="utf-8")
        told: dict[str, Tensor] = {name: torch.empty(1, *shape) for name, shape in model.told.items()}
        found = []
        for pairs in (1, 2):
            options = {"steps": 1, "batch_size": 2, "micro_batch_size": pairs, "precision": "bfloat16"}
            raw = {
                "model": str(folder),
                "data": {"path": "pairs"},  # at the size of the configuration
                "method": "diffusion-dpo",
                "training": options | training,
                "output": "out",
            }
            run = check(raw, where="preset")
            memory = rehearsed(run, method_of(run, where="preset"), folder, told, where="preset")
            found.append(memory.peak / 2**30)
    return found[0], found[1] - found[0]


def chosen(ladder: list[tuple[str, float, float]], gpu: int) -> str:
    """The first settings, from comfortable to thrifty, with which two pairs fit, or else one."""
    for wanted in (2, 1):
        for words, first, further in ladder:
            if first + (wanted - 1) * further <= USABLE * gpu:
                pairs = min(MOST, 1 + int((USABLE * gpu - first) / further))
                return f"{words}, {pairs} at once: {first + (pairs - 1) * further:.1f} GiB"
    return "does not fit"


def words_of(training: dict[str, Any]) -> str:
    """Settings as a reader of the table sees them."""
    names = [
        name if value is True else str(value)
        for name, value in training.items()
        if name not in ("mode", "reference")
    ]
    return ", ".join(f"`{name}`" for name in names) or "nothing else"


def main() -> None:
    """Print one row per model and mode."""
    families.quiet()
    print(f"| model | mode | {' | '.join(f'{gpu} GB' for gpu in GPUS)} |")
    print(f"|---|---|{'---|' * len(GPUS)}")
    for name, model in MODELS.items():
        for mode, settings in (("lora", LORA_LADDER), ("full", FULL_LADDER)):
            ladder = [(words_of(s), *peaks(model, {"mode": mode, **s})) for s in settings]
            row = " | ".join(chosen(ladder, gpu) for gpu in GPUS)
            print(f"| {name}, {model.size} px | `{mode}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
