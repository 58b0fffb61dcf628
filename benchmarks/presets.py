"""Settings that fit GPUs of 16, 24, 48 and 80 GB: estimates, for four models in their published shapes.

Steps of each model are rehearsed with tensors that have sizes and no content, so that no weights, no GPU
and hardly any memory are needed: of one pair, and of two numbers of pairs at which activations make the
peak. Batches are larger than what is computed at once, so gradients of the pairs before wait beside the
activations.

    python benchmarks/presets.py
"""

import json
import math
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


@dataclass(frozen=True)
class Peaks:
    """GiB at the peak, by how many pairs are computed at once.

    Attributes:
        least: With one pair; the optimizer's step may take more than its activations do.
        most: With `MOST` pairs.
        further: What each further pair adds where activations make the peak.
    """

    least: float
    most: float
    further: float

    def of(self, pairs: int) -> float:
        """GiB at the peak with so many pairs at once."""
        return max(self.least, self.most - (MOST - pairs) * self.further)

    def fitting(self, gpu: int) -> int:
        """How many pairs, up to `MOST`, a GPU of so many GB takes at once."""
        return max((pairs for pairs in range(1, MOST + 1) if self.of(pairs) <= USABLE * gpu), default=0)


def peaks(model: Published, training: dict[str, Any]) -> Peaks:
    """Peaks of a model under settings; of one that fits no GPU, only the least."""
    with tempfile.TemporaryDirectory() as place:
        folder = model.build(Path(place) / "model")
        path = folder / model.part / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | model.config), encoding="utf-8")
        told: dict[str, Tensor] = {name: torch.empty(1, *shape) for name, shape in model.told.items()}

        def peak(pairs: int) -> float:
            options = {"steps": 1, "batch_size": 4 * MOST, "micro_batch_size": pairs, "precision": "bfloat16"}
            raw = {
                "model": str(folder),
                "data": {"path": "pairs"},  # at the size of the configuration
                "method": "diffusion-dpo",
                "training": options | training,
                "output": "out",
            }
            run = check(raw, where="preset")
            return rehearsed(run, method_of(run, where="preset"), folder, told, where="preset").peak / 2**30

        least = peak(1)
        if least > USABLE * max(GPUS):
            return Peaks(least, math.inf, 0.0)
        most = peak(MOST)
        return Peaks(least, most, (peak(2 * MOST) - most) / MOST)


def chosen(ladder: list[tuple[str, Peaks]], gpu: int) -> str:
    """The first settings, from comfortable to thrifty, with which two pairs fit, or else one."""
    for wanted in (2, 1):
        for words, found in ladder:
            if (pairs := found.fitting(gpu)) >= wanted:
                return f"{words}, {pairs} at once: {found.of(pairs):.1f} GiB"
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
            ladder = [(words_of(s), peaks(model, {"mode": mode, **s})) for s in settings]
            row = " | ".join(chosen(ladder, gpu) for gpu in GPUS)
            print(f"| {name}, {model.size} px | `{mode}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
