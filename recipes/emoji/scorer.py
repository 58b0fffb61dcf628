"""Train the scorer that ships: contrastive towers, style head and category head, on real pictures only.

Blurred, noisy, shifted, JPEG-compressed and VAE-decoded copies of real pictures prepare it for what a
model makes.
Axes: B pictures = names x styles of the batch, C H W pixels in [0, 1].
"""

import argparse
import io
import json
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from budget import set_learning_rate
from captions import words_of
from diffusers import AutoencoderKL
from images import load_images
from PIL import Image
from safetensors.torch import load_file, save_file
from sources import CATEGORIES, STYLES, load, styled
from text_encoder import soft_cross_entropy
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

from penchant.rewards._emoji_scorer import EmojiScorer


def new_scorer(tokenizer: CLIPTokenizer) -> EmojiScorer:
    """The untrained scorer; another shape and another seed than the text encoder of the pipeline."""
    config = {
        "styles": STYLES,
        "categories": CATEGORIES,
        "image_widths": (24, 48, 96, 160),
        "embedding": 128,
        "text": {
            "num_tokens": len(tokenizer),
            "max_length": 16,
            "width": 128,
            "num_layers": 2,
            "num_heads": 4,
        },
    }
    return EmojiScorer(config, tokenizer)


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    """A uint8 [3, H, W] picture after JPEG compression."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)


@torch.no_grad()
def variants(work: Path) -> Tensor:
    """The pictures as they are, through JPEG and through the VAE, uint8 [V, N, S, 3, 64, 64] (cached)."""
    file = work / "variants.safetensors"
    if not file.is_file():
        images, dice = load_images(work), random.Random(2)
        flat = images.flatten(0, 1)
        jpeg = torch.stack([through_jpeg(image, dice.randint(30, 85)) for image in flat])
        vae = AutoencoderKL.from_pretrained(work / "vae").eval()
        decoded = [vae(part.float() / 127.5 - 1).sample for part in flat.split(128)]
        decoded = ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        save_file(
            {"variants": torch.stack([flat, jpeg, decoded]).unflatten(1, images.shape[:2]).contiguous()}, file
        )
    return load_file(file)["variants"]


def augmented(images: Tensor) -> Tensor:
    """Random place, size, blur, brightness and noise per picture; uint8 to [0, 1]."""
    pixels = images.float() / 255
    count = len(pixels)
    zoom, shift = 1 + 0.24 * (torch.rand(count) - 0.5), 0.2 * (torch.rand(count, 2) - 0.5)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = transform[:, 1, 1] = zoom
    transform[:, :, 2] = shift
    grid = F.affine_grid(transform, list(pixels.shape), align_corners=False)
    pixels = 1 - F.grid_sample(1 - pixels, grid, align_corners=False)  # white outside
    side = random.choice((64, 64, 48, 40, 32, 24))
    if side < 64:
        blurred = F.interpolate(F.interpolate(pixels, size=side, mode="area"), size=64, mode="bilinear")
        pixels = torch.where(torch.rand(count, 1, 1, 1) < 0.6, blurred, pixels)
    pixels = pixels * (0.85 + 0.3 * torch.rand(count, 3, 1, 1)) + 0.1 * (torch.rand(count, 1, 1, 1) - 0.5)
    pixels = pixels + 0.08 * torch.rand(count, 1, 1, 1) * torch.randn_like(pixels)
    return pixels.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def main() -> None:
    """Train for a wall-clock budget and write the folder that ships (some minutes: no resuming)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("src/penchant/assets/emoji-scorer"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--names", type=int, default=80, help="names per batch, each in all styles")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(77)
    random.seed(77)
    dice = random.Random(77)
    emojis, pool = load(options.work), variants(options.work)
    scorer = new_scorer(CLIPTokenizer.from_pretrained(options.work / "tokenizer"))
    scorer.image_tower.to(memory_format=torch.channels_last)
    category = torch.tensor([CATEGORIES.index(emoji.category) for emoji in emojis])
    optimizer = torch.optim.AdamW(
        scorer.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    started, step = time.monotonic(), 0
    while (fraction := (time.monotonic() - started) / (options.minutes * 60)) < 1:
        set_learning_rate(optimizer, options.learning_rate, step=step, fraction=fraction)
        names = torch.randperm(len(emojis))[: options.names].repeat_interleave(len(STYLES))
        styles = torch.arange(len(STYLES)).repeat(options.names)
        # A style word at random, right or wrong: the match is about what is shown, not about the style.
        texts = [
            styled(words_of(emojis[n], dice), dice.choice((None, None, *STYLES))) for n in names.tolist()
        ]
        images = augmented(pool[torch.randint(len(pool), (len(names),)), names, styles])
        with (
            torch.autocast("cpu", torch.bfloat16),
            sdpa_kernel(SDPBackend.MATH),
        ):  # the fused backward pass is slow on CPU
            features = scorer.features(images)
            image = F.normalize(scorer.image_projection(features).float(), dim=-1)
            text = F.normalize(
                scorer.text_projection(scorer.text_tower(*scorer.tokens(texts))).float(), dim=-1
            )
            style, kind = scorer.style_head(features).float(), scorer.category_head(features).float()
        logits = scorer.log_scale.exp() * image @ text.T
        positive = (names[:, None] == names).float()
        contrast = 0.5 * (soft_cross_entropy(logits, positive) + soft_cross_entropy(logits.T, positive))
        loss = (
            contrast
            + 0.5 * F.cross_entropy(style, styles, label_smoothing=0.02)
            + 0.3 * F.cross_entropy(kind, category[names])
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            scorer.log_scale.clamp_(max=math.log(50))
        step += 1
        if step % 25 == 0:
            right = positive.gather(1, logits.argmax(1, keepdim=True)).mean()
            told = (style.argmax(1) == styles).float().mean()
            print(
                f"step {step} share {fraction:.2f} contrast {contrast:.3f} "
                f"right caption {right:.3f} style {told:.3f}",
                flush=True,
            )
    temporary = options.out.with_name("emoji-scorer.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    scorer.tokenizer.save_pretrained(temporary / "tokenizer")
    (temporary / "config.json").write_text(json.dumps(scorer.config, indent=1))
    weights = {
        key: value.half() if value.is_floating_point() else value
        for key, value in scorer.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in weights.items()}, temporary / "model.safetensors")
    (temporary / "model.safetensors").chmod(0o644)
    if (options.out / "README.md").is_file():
        shutil.copy(options.out / "README.md", temporary)
    shutil.rmtree(options.out, ignore_errors=True)
    temporary.rename(options.out)


if __name__ == "__main__":
    main()
