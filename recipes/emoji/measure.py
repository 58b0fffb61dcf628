"""Measure the model that ships with the scorer that ships; print one number per line.

Caption rank: how often the right caption has the highest match among 100 (itself and 99 other names).
Axes: N pictures, M captions.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from images import load_images
from sources import STYLES, load, styled
from torch import Tensor

from penchant.rewards._emoji_scorer import EmojiScorer

STEPS, GUIDANCE = 20, 2.0


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The exported folder in float32, without progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    *,
    first_seed: int,
    batch: int = 48,
    guidance: float = GUIDANCE,
) -> Tensor:
    """One picture per caption, seeds counted up from `first_seed`; [N, 3, 64, 64] in [0, 1]."""
    images = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        noise = [torch.Generator().manual_seed(first_seed + start + offset) for offset in range(len(part))]
        made = pipeline(
            part,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=noise,
            height=64,
            width=64,
            output_type="pt",
        )
        images.append(made.images)
    return torch.cat(images)


@torch.no_grad()
def rank_accuracy(scorer: EmojiScorer, images: Tensor, names: list[str], all_names: list[str]) -> float:
    """Share of pictures whose own name is first among 100 names."""
    text = dict(
        zip(
            all_names,
            torch.cat([scorer.text_embedding(all_names[i : i + 256]) for i in range(0, len(all_names), 256)]),
            strict=True,
        )
    )
    right = 0
    for embedding, name in zip(
        torch.cat([scorer.image_embedding(part) for part in images.split(256)]), names, strict=True
    ):
        others = random.Random(name).sample([other for other in all_names if other != name], 99)
        scores = torch.stack([text[name], *(text[other] for other in others)]) @ embedding
        right += int(scores.argmax() == 0)
    return right / len(names)


@torch.no_grad()
def style_shares(scorer: EmojiScorer, images: Tensor) -> Tensor:
    """Most probable style of each picture."""
    return torch.cat([scorer.style_probability(part) for part in images.split(256)]).argmax(1)


@torch.no_grad()
def main() -> None:
    """Print all measures and write them to `work`/measured.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--assets", type=Path, default=Path("src/penchant/assets"))
    parser.add_argument("--names", type=int, default=150, help="names whose pictures are generated")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    emojis, images = load(options.work), load_images(options.work).float() / 255
    all_names = [emoji.name for emoji in emojis]
    scorer, pipeline = (
        EmojiScorer.load(options.assets / "emoji-scorer"),
        load_pipeline(options.assets / "emoji"),
    )
    chosen = sorted(random.Random(0).sample(range(len(emojis)), options.names))
    names = [all_names[index] for index in chosen]
    truth = torch.arange(len(STYLES)).repeat_interleave(len(names))
    real = torch.cat([images[chosen, style] for style in range(len(STYLES))])
    vae: AutoencoderKL = pipeline.vae
    decoded = torch.cat([(vae(part * 2 - 1).sample.clamp(-1, 1) + 1) / 2 for part in real.split(128)])
    measured: dict[str, float] = {}

    def report(key: str, value: float) -> None:
        measured[key] = round(value, 4)
        print(f"{key}: {value:.4f}", flush=True)

    report("vae psnr dB", float(-10 * (decoded - real).square().mean(dim=(1, 2, 3)).log10().mean()))
    report("rank accuracy, real", rank_accuracy(scorer, real, names * 3, all_names))
    report("rank accuracy, vae", rank_accuracy(scorer, decoded, names * 3, all_names))
    report("style accuracy, real", float((style_shares(scorer, real) == truth).float().mean()))
    report("style accuracy, vae", float((style_shares(scorer, decoded) == truth).float().mean()))
    made = generate(
        pipeline,
        [styled(name, style) for style in STYLES for name in names],
        first_seed=1000,
        guidance=options.guidance,
    )
    report("rank accuracy, generated with style word", rank_accuracy(scorer, made, names * 3, all_names))
    report(
        "style accuracy, generated with style word",
        float((style_shares(scorer, made) == truth).float().mean()),
    )
    plain = generate(pipeline, names, first_seed=5000, guidance=options.guidance)
    report("rank accuracy, generated without style word", rank_accuracy(scorer, plain, names, all_names))
    report(
        "ratio generated to real",
        measured["rank accuracy, generated without style word"] / measured["rank accuracy, real"],
    )
    for style, word in enumerate(STYLES):
        report(
            f"share of {word} without style word",
            float((style_shares(scorer, plain) == style).float().mean()),
        )
    started = time.monotonic()
    generate(pipeline, names[:16], first_seed=9000, guidance=options.guidance)
    report("seconds for 16 images at 20 steps", time.monotonic() - started)
    (options.work / "measured.json").write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
