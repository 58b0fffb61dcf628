"""The pictures' latents as the UNet draws them: noised in part, then denoised under their own caption.

Axes: N names, S styles, B pictures of a batch, C H W = 8 x 8 x 8.
"""

from pathlib import Path

import torch
from export import assembled
from latents import encode_latents
from safetensors.torch import load_file, save_file
from sources import STYLES, load, styled
from torch import Tensor

STEPS, GUIDANCE, BATCH = 20, 1.5, 48


@torch.no_grad()
def redrawn_latents(work: Path) -> Tensor:
    """One scaled latent for each picture, [N, S, 8, 8, 8] (cached in `work`/redrawn.safetensors).

    Each batch starts at a moment of its own, drawn at random from nearly clean to pure noise, and takes the
    rest of the steps.
    """
    file = work / "redrawn.safetensors"
    if not file.is_file():
        pipeline, _ = assembled(work)
        unet, scheduler = pipeline.unet.to(torch.bfloat16), pipeline.scheduler
        scheduler.set_timesteps(STEPS)
        captions = [styled(emoji.name, style) for emoji in load(work) for style in STYLES]
        drawn = encode_latents(work).flatten(0, 1).clone()
        noise = torch.randn_like(drawn)
        for count, chosen in enumerate(torch.randperm(len(captions)).split(BATCH)):
            words = pipeline.encode_prompt(
                [captions[row] for row in chosen], "cpu", 1, do_classifier_free_guidance=True
            )
            prompts = torch.cat([words[1], words[0]]).to(torch.bfloat16)
            start = int(torch.randint(STEPS, ()))
            moments = scheduler.timesteps[start:]
            now = scheduler.add_noise(drawn[chosen], noise[chosen], moments[:1].expand(len(chosen)))
            for moment in moments:
                plain, told = unet(now.repeat(2, 1, 1, 1).to(torch.bfloat16), moment, prompts).sample.chunk(2)
                velocity = (plain + GUIDANCE * (told - plain)).float()
                now = scheduler.step(velocity, moment, now).prev_sample
            drawn[chosen] = now
            if count % 10 == 0:
                print(f"redrawn {count * BATCH} of {len(captions)}", flush=True)
        save_file({"latents": drawn.unflatten(0, (-1, len(STYLES))).contiguous()}, file)
    return load_file(file)["latents"]
