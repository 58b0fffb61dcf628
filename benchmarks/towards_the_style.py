"""How far an adapter goes from what the emoji model draws to what it draws with the style word in the prompt.

    .venv/bin/python benchmarks/towards_the_style.py runs/demo

On prompts and seeds of its own, in latents, for captions of the validation and of the training split. The way
is the difference to the base's latents, projected on the difference that `, fluent style` makes: 1 is all.
The rest is how far the tuned latents are from those of the style word, against how far the base's are.
Axes: N prompts, D = C H W of a latent.
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from penchant import families
from penchant.rewards.caption_match import CaptionMatch
from penchant.rewards.style import Style

ASSETS = Path(families.SHIPPED["emoji"]).parent
PROMPTS, BATCH, STEPS, FIRST_SEED = 96, 32, 20, 7000


def captions(split: str) -> list[str]:
    """Captions of one split of the shipped pairs, evenly taken from their sorted list."""
    rows = pq.read_table(ASSETS / "emoji-pairs.parquet", columns=["caption", "split"]).to_pylist()
    found = sorted({row["caption"] for row in rows if row["split"] == split})
    return found[:: max(1, len(found) // PROMPTS)][:PROMPTS]


def drawn(pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float) -> Tensor:
    """Latents [N, D] of the prompts, each from the noise of its place."""
    found = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(FIRST_SEED + start + row) for row in range(len(part))]
        found.append(
            pipeline(
                part,
                num_inference_steps=STEPS,
                guidance_scale=guidance,
                generator=generators,
                output_type="latent",
            ).images
        )
    return torch.cat(found)


@torch.no_grad()
def judged(pipeline: StableDiffusionPipeline, latents: Tensor, prompts: list[str]) -> tuple[float, float]:
    """Share of the preferred style, and mean caption match."""
    scaled = latents / pipeline.vae.config.scaling_factor
    images = torch.cat([pipeline.vae.decode(part).sample for part in scaled.split(BATCH)])
    images = (images / 2 + 0.5).clamp(0, 1)
    share = Style(style="fluent").labels(images).float().mean().item()
    return share, CaptionMatch()(images, prompts).mean().item()


def main() -> None:
    """Print one line for each split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of mode lora on the emoji model")
    parser.add_argument("--guidance", type=float, default=1.5)
    options = parser.parse_args()
    families.quiet()
    base, tuned = (StableDiffusionPipeline.from_pretrained(families.SHIPPED["emoji"]) for _ in range(2))
    tuned.load_lora_weights(str(options.run / "adapter"))
    for pipeline in (base, tuned):
        pipeline.set_progress_bar_config(disable=True)
    for split in ("validation", "train"):
        prompts = captions(split)
        before = drawn(base, prompts, options.guidance)
        goal = drawn(base, [f"{prompt}, fluent style" for prompt in prompts], options.guidance)
        after = drawn(tuned, prompts, options.guidance)
        whole = goal - before
        way = ((after - before) * whole).sum() / whole.square().sum()
        rest = (after - goal).square().mean().sqrt() / whole.square().mean().sqrt()
        (share, match), (base_share, base_match) = (judged(base, x, prompts) for x in (after, before))
        print(
            f"{split}: way {way:.2f}, rest {rest:.2f}, share {base_share:.1%} to {share:.1%}, "
            f"caption match {base_match:.1f} to {match:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
