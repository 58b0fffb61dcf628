"""Train the AutoencoderKL: 64 x 64 pixels to 8 x 8 x 8 latents.

Axes: B images, C H W pixels in [-1, 1].
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
from torch import Tensor


def new_vae() -> AutoencoderKL:
    """The untrained autoencoder."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
        mid_block_add_attention=True,
    )


def gradient_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical pixel differences: keeps edges sharp."""
    return F.l1_loss(output.diff(dim=-1), target.diff(dim=-1)) + F.l1_loss(
        output.diff(dim=-2), target.diff(dim=-2)
    )


def augmented(images: Tensor) -> Tensor:
    """Half of the batch mirrored, all shifted by up to two pixels on white; uint8 to [-1, 1]."""
    pixels = images.float() / 127.5 - 1
    mirrored = torch.rand(len(pixels), 1, 1, 1) < 0.5
    pixels = torch.where(mirrored, pixels.flip(-1), pixels)
    dy, dx = torch.randint(0, 5, (2,)).tolist()
    return F.pad(pixels, (2, 2, 2, 2), value=1.0)[..., dy : dy + 64, dx : dx + 64]


def main() -> None:
    """Train for a wall-clock budget, resuming from `work`/vae.safetensors; then write `work`/vae."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, default=14.0, help="budget; the learning rate decays over it"
    )
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    images = load_images(options.work).flatten(0, 1)
    vae = new_vae()  # not channels_last: its group norm backward is slow
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3
    )
    state_file = options.work / "vae.safetensors"
    step, spent = 0, 0.0
    if state_file.is_file():
        tensors, meta = checkpoint.load(state_file)
        vae.load_state_dict(
            {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        )
        checkpoint.restore_optimizer(vae, optimizer, tensors)
        step, spent = int(meta["step"]), meta["spent"]

    def write() -> None:
        tensors = {
            f"model.{key}": value for key, value in vae.state_dict().items()
        } | checkpoint.optimizer_tensors(vae, optimizer)
        checkpoint.save(state_file, tensors, step=step, spent=spent)

    last = written = time.monotonic()
    while spent < options.minutes * 60:
        fraction = spent / (options.minutes * 60)
        set_learning_rate(optimizer, options.learning_rate, step=step, fraction=fraction)
        batch = augmented(images[torch.randint(len(images), (options.batch,))])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            output = vae.decode(posterior.sample()).sample
        output = output.float()
        divergence = (
            0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        )
        absolute, squared = F.l1_loss(output, batch), F.mse_loss(output, batch)
        loss = absolute + squared + 0.5 * gradient_loss(output, batch) + 1e-3 * divergence
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            print(
                f"step {step} minutes {spent / 60:.2f} l1 {absolute:.4f} mse {squared:.5f} "
                f"kl {divergence:.3f} norm {norm:.2f}",
                flush=True,
            )
        if now - written > 120:
            write()
            written = now
    write()

    vae.eval()
    with torch.no_grad():
        means = torch.cat(
            [vae.encode(chunk.float() / 127.5 - 1).latent_dist.mean for chunk in images.split(128)]
        )
        sample = images[::13].float() / 127.5 - 1
        decoded = torch.cat([vae.decode(chunk).sample.clamp(-1, 1) for chunk in means[::13].split(128)])
    vae.register_to_config(scaling_factor=1 / means.std().item())
    vae.save_pretrained(options.work / "vae")
    psnr = -10 * ((decoded - sample) / 2).square().mean(dim=(1, 2, 3)).log10().mean()
    print(
        f"scaling factor {vae.config.scaling_factor:.4f}, latent mean {means.mean():.3f}, "
        f"channel std {means.std(dim=(0, 2, 3))}, psnr {psnr:.2f} dB"
    )


if __name__ == "__main__":
    main()
