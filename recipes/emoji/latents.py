"""The pictures as the UNet sees them. Axes: N names, S styles, C H W = 8 x 8 x 8."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from images import load_images
from safetensors.torch import load_file, save_file
from torch import Tensor


@torch.no_grad()
def encode_latents(work: Path) -> Tensor:
    """Scaled posterior means of all pictures, [N, S, 8, 8, 8] (cached in `work`/latents.safetensors)."""
    file = work / "latents.safetensors"
    if not file.is_file():
        vae = AutoencoderKL.from_pretrained(work / "vae").eval()
        images = load_images(work)
        means = [
            vae.encode(part.float() / 127.5 - 1).latent_dist.mean for part in images.flatten(0, 1).split(128)
        ]
        save_file(
            {
                "latents": (torch.cat(means) * vae.config.scaling_factor)
                .unflatten(0, images.shape[:2])
                .contiguous()
            },
            file,
        )
    return load_file(file)["latents"]
