"""Peak memory of setting up a run, with the parts of the model loaded at once and one after the other.

The model is random: CLIP of SD 1.5's size, its VAE, and a UNet of half its width, 1.7 GB in float32.

    python benchmarks/loading.py FOLDER
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from penchant import families
from penchant.data.rows import Candidate, Example
from penchant.families import Part, tiny
from penchant.shapes import Shape
from penchant.training.encode import Preparation, encode_images, encode_texts, groups_of
from penchant.training.table import InMemory

SIZE = 256


def build(folder: Path) -> None:
    """Write the model."""
    tokenizer = tiny.tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8, block_out_channels=(160, 320, 640, 640), cross_attention_dim=768
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def measure(folder: Path, picture: bytes, phases: bool) -> dict[str, int]:
    """Encode a pair, load the denoiser and touch its weights; bytes of memory, at most and at the end."""
    pair = (Candidate(image=picture), Candidate(image=picture + b"\0"))
    groups = groups_of(
        [Example(prompt="a", candidates=pair, preference=(1.0, 0.0))], Shape.PAIR, where="pair"
    )
    preparation = Preparation(sizes=((SIZE, SIZE),))
    start = status()["VmRSS"]
    family = families.load_folder(folder, part=Part.TEXT_ENCODERS if phases else None)
    encode_texts(groups, family, InMemory())
    if phases:
        del family
        family = families.load_folder(folder, part=Part.AUTOENCODER)
    encode_images(groups, family, preparation, InMemory())
    if phases:
        del family
        family = families.load_folder(folder, part=Part.DENOISER)
    family.release_encoders()
    with torch.no_grad():
        total = sum(float(parameter.sum()) for parameter in family.network.parameters())
    assert total == total
    end = status()
    return {"before": start, "peak": end["VmHWM"], "end": end["VmRSS"]}


def status() -> dict[str, int]:
    """Resident memory of this process in bytes, now and at most."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}


def main() -> None:
    """Print one row per way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phases", type=int, help="measure in this process: 0 at once, 1 in phases")
    options = parser.parse_args()
    if options.phases is not None:
        picture = (options.folder / "picture.png").read_bytes()
        print(json.dumps(measure(options.folder / "model", picture, bool(options.phases))))
        return
    if not (options.folder / "model").exists():
        build(options.folder / "model")
    from PIL import Image

    Image.effect_noise((SIZE, SIZE), 60).convert("RGB").save(options.folder / "picture.png")
    for phases in (0, 1):
        command = [sys.executable, __file__, str(options.folder), "--phases", str(phases)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        way = "one after the other" if phases else "at once"
        print(way, {name: f"{size / 1e9:.2f} GB" for name, size in found.items()})


if __name__ == "__main__":
    main()
