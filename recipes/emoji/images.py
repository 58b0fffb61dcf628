"""Pictures as tensors: 64 x 64 RGB on white, every name in every style.

Axes: N names, S styles in the order of `sources.STYLES`, C H W pixels.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sources import STYLES, load
from torch import Tensor

SIDE = 64


def read(file: Path) -> Tensor:
    """One picture on white, uint8 [3, 64, 64]."""
    with Image.open(file) as opened:
        picture = opened.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(white, picture).convert("RGB")
    if flat.size != (SIDE, SIDE):
        flat = flat.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(flat).copy()).permute(2, 0, 1)


def load_images(work: Path) -> Tensor:
    """All pictures, uint8 [N, S, 3, 64, 64]."""
    return load_file(work / "images.safetensors")["images"]


def main() -> None:
    """Write `work`/images.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    rows = [
        torch.stack([read(options.raw / emoji.files[style]) for style in STYLES])
        for emoji in load(options.work)
    ]
    images = torch.stack(rows).contiguous()
    save_file({"images": images}, options.work / "images.safetensors")
    print(f"images: {tuple(images.shape)}")


if __name__ == "__main__":
    main()
