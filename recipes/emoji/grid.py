"""Draw 24 prompts in three styles side by side, without the words, so that a person can guess them."""

import argparse
import os
from pathlib import Path

import torch
from measure import GUIDANCE, generate, load_pipeline
from PIL import Image
from sources import STYLES, styled

PROMPTS = (
    "dog face",
    "red apple",
    "automobile",
    "sunflower",
    "birthday cake",
    "rocket",
    "smiling face with heart eyes",
    "guitar",
    "banana",
    "cat face",
    "house",
    "soccer ball",
    "penguin",
    "crown",
    "airplane",
    "strawberry",
    "light bulb",
    "tropical fish",
    "pizza",
    "thumbs up",
    "evergreen tree",
    "skull",
    "butterfly",
    "umbrella with rain drops",
)


def main() -> None:
    """Write the picture: 4 blocks per row, each block one prompt in all styles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("src/penchant/assets"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/emoji-grid.png"))
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    captions = [styled(prompt, style) for prompt in PROMPTS for style in STYLES]
    images = generate(
        load_pipeline(options.assets / "emoji"),
        captions,
        first_seed=options.first_seed,
        guidance=options.guidance,
    )
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    gap, columns, side = 12, 4, 64
    width = columns * (3 * side + gap) + gap
    height = len(PROMPTS) // columns * (side + gap) + gap
    sheet = Image.new("RGB", (width, height), "#d8d8d8")
    for number, picture in enumerate(pixels):
        block, style = divmod(number, len(STYLES))
        row, column = divmod(block, columns)
        sheet.paste(
            Image.fromarray(picture),
            (gap + column * (3 * side + gap) + style * side, gap + row * (side + gap)),
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((width * 2, height * 2), Image.Resampling.LANCZOS).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
