"""A synthetic but complete run folder: real image files, curves, results that the library itself computed."""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from penchant.evaluation.comparison import compare
from penchant.evaluation.drift import PairedImages
from penchant.evaluation.results import EvaluationManifest, Results, write_results
from penchant.rewards.colourfulness import Colourfulness
from penchant.rewards.compressibility import Compressibility

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOSTILE = "<script>alert(1)</script> \"quoted\" & 'so' <img src=x onerror=alert(2)>"

RUN = """\
# effective run file
method: diffusion-dpo
model: assets/emoji-model
data: {path: assets/emoji-pairs.parquet, train_split: train}
objective:
  beta: 800.0
training:
  steps: 240
  learning_rate: 5.0e-4
"""


def draw(number: int, side: str, size: int = 64) -> Image.Image:
    """A disc with two eyes, of one of seven sizes; flat before, shaded after."""
    hue = (number * 47) % 360
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    for ring in range(size // 2 - 4 - number % 7, 0, -2):
        light = 55 if side == "base" else 35 + 40 * (1 - 2 * ring / size)
        pen.ellipse(
            [size / 2 - ring, size / 2 - ring, size / 2 + ring, size / 2 + ring],
            fill=f"hsl({hue},{75 if side == 'base' else 90}%,{light:.0f}%)",
        )
    for eye in (0.36, 0.6):
        pen.ellipse([eye * size, 0.38 * size, (eye + 0.07) * size, 0.5 * size], fill="#222")
    return image


class StandInCaptionMatch:
    name = "caption match"
    unit = "points"
    version = "1"

    def __call__(self, images, prompts):
        return 40 + 10 * images.std(dim=(1, 2, 3))


class StandInStyle:
    name = "style: fluent"
    unit = "probability"
    version = "1"

    def __call__(self, images, prompts):
        return (8 * (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2)) - 2).sigmoid()


def tensor_of(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])


def results_of(base: torch.Tensor, tuned: torch.Tensor, prompts: list[str]) -> Results:
    style = StandInStyle()
    return compare(
        PairedImages(base=base, tuned=tuned, prompts=prompts),
        manifest=EvaluationManifest(
            metric=style.name,
            unit=style.unit,
            prompt_set="test",
            prompt_hash="7c1f0a5be2d94c11",
            num_prompts=len(set(prompts)),
            num_seeds=2,
            sampler="ddim",
            num_steps=20,
            guidance_scale=3.0,
            precision="float32",
            scorer_version="e3b0c44298fc1c14 fluent",
            tie_margin=0.0,
        ),
        metric=style,
        descriptions=(Compressibility(), Colourfulness()),
        caption_match=StandInCaptionMatch(),
        preferred_labels=tuple((style(images, prompts) > 0.5).tolist() for images in (base, tuned)),
        timings={"sampling": 93.4, "scoring": 2.1},
        peak_memory=1_740_000_000,
    )


def metric_lines(num_steps: int = 240) -> str:
    noise, lines = random.Random(0), []
    for step in range(1, num_steps + 1):
        for split in ("train", "heldout") if step % 20 == 0 else ("train",):
            wide = 1.0 if split == "train" else 0.2
            margin = 1.6 * (1 - math.exp(-step / 90)) + wide * noise.gauss(0, 0.35)
            row = {
                "step": step,
                "split": split,
                "loss": math.log1p(math.exp(-margin)),
                "margin/mean": margin,
                "margin/positive": min(1.0, max(0.0, 0.5 + 0.25 * margin + wide * noise.gauss(0, 0.05))),
                "error/winner_change": -0.004 * margin + wide * noise.gauss(0, 0.002),
                "error/loser_change": 0.011 * margin + wide * noise.gauss(0, 0.002),
                "gradient/factor": 1 / (1 + math.exp(margin)),
                "time/step_s": 1.1,
            }
            if split == "train":
                row["gradient/norm"] = 0.4 + abs(noise.gauss(0, 0.15)) + (9 if step == 31 else 0)
            for quarter in range(4):
                row[f"margin/mean/t{quarter}"] = margin * (0.4 + 0.3 * quarter) + wide * noise.gauss(0, 0.2)
            lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def build_run_folder(
    folder: Path, *, num_pairs: int, picture: Callable[[int, str], Image.Image] = draw, prompts=None
) -> Path:
    """Write a complete run folder of `num_pairs` pairs, two seeds per prompt."""
    if prompts is None:
        prompts = [HOSTILE if i < 2 else f"smiling disc number {i // 2}" for i in range(num_pairs)]
    images = {side: [picture(i, side) for i in range(num_pairs)] for side in ("base", "tuned")}
    rows = []
    for i, prompt in enumerate(prompts):
        row = {"prompt": prompt, "seed": i % 2}
        for side in ("base", "tuned"):
            row[side] = f"{side}/{i:05d}.png"
            path = folder / "samples" / row[side]
            path.parent.mkdir(parents=True, exist_ok=True)
            images[side][i].save(path)
        rows.append(json.dumps(row))
    (folder / "samples" / "index.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "run.yaml").write_text(RUN, encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metric_lines(), encoding="utf-8")
    manifest = {
        "penchant": "0.1.0",
        "versions": {"torch": "2.13.0", "diffusers": "0.42.0"},
        "seed": 0,
        "data": {"file": "emoji-pairs.parquet", "rows": 2094, "train": 1460, "sha256": "ab" * 32},
        "model": {"sha256": "cd" * 32},
        "devices": ["cpu"],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    sides = (tensor_of(images[side]) for side in ("base", "tuned"))
    write_results(results_of(*sides, list(prompts)), folder / "results.json")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A complete run folder of 30 pairs that no test changes; the first prompt is hostile."""
    return build_run_folder(tmp_path_factory.mktemp("runs") / "first-run", num_pairs=30)


@pytest.fixture
def run_folder(finished_run, tmp_path) -> Path:
    """A copy of the complete run folder, for one test alone."""
    return shutil.copytree(finished_run, tmp_path / "first-run")


@pytest.fixture(scope="session")
def browser():
    """A browser; without one the tests are skipped, but on CI they fail."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium found: CI must install one, so that the report is seen by a browser")
        pytest.skip("no Chromium found")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open a file at a width; the page and all its troubles."""
    pages = []

    def open_at(path, width: int):
        page = browser.new_page(viewport={"width": width, "height": 844})
        pages.append(page)
        troubles = []
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
        page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url[:80]}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("data:", path.as_uri()))
                else troubles.append(f"request: {request.url[:80]}")
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        return page, troubles

    yield open_at
    for page in pages:
        page.close()
