"""Sharpen the VAE's decoder; the encoder and therefore the latents stay, so a trained UNet stays valid.

Latents of a diffusion model are never exact: most of those in training are redrawn by the UNet, and all get
a little noise. Axes: B pictures, C H W.
"""

import argparse
import time
from pathlib import Path

import checkpoint
import torch
import torch.nn.functional as F
from budget import set_learning_rate
from diffusers import AutoencoderKL
from images import load_images
from latents import encode_latents
from redrawn import redrawn_latents
from vae import gradient_loss


def main() -> None:
    """Train for a wall-clock budget, resuming from `work`/decoder.safetensors; updates `work`/vae."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=160.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--noise", type=float, default=0.2, help="largest standard deviation, in units of the scaled latent"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(5)
    images = load_images(options.work).flatten(0, 1)
    vae = AutoencoderKL.from_pretrained(options.work / "vae")
    latents = torch.cat([encode_latents(options.work)[None], redrawn_latents(options.work)]).flatten(1, 2)
    parts = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    optimizer = torch.optim.AdamW(
        parts.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
    )
    state_file = options.work / "decoder.safetensors"
    step, spent = 0, 0.0
    if state_file.is_file():
        tensors, meta = checkpoint.load(state_file)
        parts.load_state_dict(
            {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        )
        checkpoint.restore_optimizer(parts, optimizer, tensors)
        step, spent = int(meta["step"]), meta["spent"]

    def write() -> None:
        tensors = {
            f"model.{key}": value for key, value in parts.state_dict().items()
        } | checkpoint.optimizer_tensors(parts, optimizer)
        checkpoint.save(state_file, tensors, step=step, spent=spent)
        vae.save_pretrained(options.work / "vae")

    last = written = time.monotonic()
    while spent < options.minutes * 60:
        fraction = spent / (options.minutes * 60)
        set_learning_rate(optimizer, options.learning_rate, step=step, fraction=fraction)
        chosen = torch.randint(len(images), (options.batch,))
        target = images[chosen].float() / 127.5 - 1
        given = latents[torch.randint(len(latents), chosen.shape), chosen]
        noisy = given + options.noise * torch.rand(options.batch, 1, 1, 1) * torch.randn_like(given)
        with torch.autocast("cpu", torch.bfloat16):
            output = vae.decode(noisy / vae.config.scaling_factor).sample
        output = output.float()
        absolute, squared = F.l1_loss(output, target), F.mse_loss(output, target)
        (absolute + squared + 0.5 * gradient_loss(output, target)).backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            print(f"step {step} minutes {spent / 60:.2f} l1 {absolute:.4f} mse {squared:.5f}", flush=True)
        if now - written > 240:
            write()
            written = now
    write()


if __name__ == "__main__":
    main()
