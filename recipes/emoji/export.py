"""Put the parts together as a StableDiffusionPipeline folder in half precision."""

import argparse
import json
import shutil
from pathlib import Path

import checkpoint
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer
from unet import new_scheduler, new_unet


def assembled(work: Path) -> tuple[StableDiffusionPipeline, dict[str, float]]:
    """The pipeline with the averaged UNet of the last checkpoint, in float32, and its numbers."""
    tensors, meta = checkpoint.load(work / "unet.safetensors")
    unet = new_unet()
    unet.load_state_dict(
        {key.removeprefix("average."): value for key, value in tensors.items() if key.startswith("average.")}
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, meta


def main() -> None:
    """Write the folder beside the old one, then swap; a README.md in the old folder is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("src/penchant/assets/emoji"))
    options = parser.parse_args()
    pipeline, meta = assembled(options.work)
    temporary, old = options.out.with_name("emoji.tmp"), options.out.with_name("emoji.old")
    for folder in (temporary, old):
        shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(temporary, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # for transformers before version 5
        shutil.copy(options.work / "tokenizer" / name, temporary / "tokenizer")
    for file in temporary.rglob("config.json"):  # diffusers notes the folder that a part was loaded from
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if "dtype" in config:  # transformers loads in this type, diffusers in float32: the parts must agree
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in temporary.rglob("*.safetensors"):
        file.chmod(0o644)
    if options.out.is_dir():
        if (options.out / "README.md").is_file():
            shutil.copy(options.out / "README.md", temporary)
        options.out.rename(old)
    temporary.rename(options.out)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB, {int(meta['samples'])} samples seen")


if __name__ == "__main__":
    main()
