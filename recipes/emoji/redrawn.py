"""The pictures' latents as the UNet draws them: noised in part, then denoised under their own caption.

Axes: D drawings of each picture, N names, S styles, B pictures of a batch, C H W = 8 x 8 x 8.
"""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from export import assembled
from latents import encode_latents
from safetensors.torch import load_file, save_file
from sources import STYLES, load, styled
from torch import Tensor

DRAWINGS, STEPS, GUIDANCE, BATCH = 3, 20, 1.5, 48


def redrawn_latents(work: Path) -> Tensor:
    """Scaled latents, [D, N, S, 8, 8, 8] (cached in `work`/redrawn.safetensors)."""
    file = work / "redrawn.safetensors"
    if not file.is_file():
        pipeline, _ = assembled(work)
        pipeline.unet.to(torch.bfloat16)
        captions = [styled(emoji.name, style) for emoji in load(work) for style in STYLES]
        clean = encode_latents(work)
        drawings = [redraw(pipeline, clean.flatten(0, 1), captions) for _ in range(DRAWINGS)]
        save_file({"latents": torch.stack(drawings).unflatten(1, clean.shape[:2]).contiguous()}, file)
    return load_file(file)["latents"]


@torch.no_grad()
def redraw(
    pipeline: StableDiffusionPipeline,
    clean: Tensor,  # [N * S, C, H, W]
    captions: list[str],
) -> Tensor:
    """One drawing of each picture, shaped as `clean`.

    Each batch starts at a moment of its own, drawn at random from nearly clean to pure noise, and takes the
    rest of the steps.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    drawn, noise = clean.clone(), torch.randn_like(clean)
    for count, chosen in enumerate(torch.randperm(len(captions)).split(BATCH)):
        words = pipeline.encode_prompt(
            [captions[row] for row in chosen], "cpu", 1, do_classifier_free_guidance=True
        )
        prompts = torch.cat([words[1], words[0]]).to(torch.bfloat16)
        moments = scheduler.timesteps[int(torch.randint(STEPS, ())) :]
        now = scheduler.add_noise(clean[chosen], noise[chosen], moments[:1].expand(len(chosen)))
        for moment in moments:
            plain, told = pipeline.unet(
                now.repeat(2, 1, 1, 1).to(torch.bfloat16), moment, prompts
            ).sample.chunk(2)
            velocity = (plain + GUIDANCE * (told - plain)).float()
            now = scheduler.step(velocity, moment, now).prev_sample
        drawn[chosen] = now
        if count % 10 == 0:
            print(f"redrawn {count * BATCH} of {len(captions)}", flush=True)
    return drawn
