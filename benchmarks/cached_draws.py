"""How many cached noise draws are enough: K of them against fresh noise, on the shipped model.

    python benchmarks/cached_draws.py

A small part of the training pairs is passed over some 70 times, so that few draws are seen again often; the
rest is the demo's. Images are judged on the validation captions, not on those of the demo's result. Beside
what came out stand the reference's passes, in pairs of images, which are the same on every machine, and the
seconds of the whole command, side by side in one run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penchant.runs.data import SHIPPED_DATA

PAIRS, STEPS, BATCH, PROMPTS = 32, 140, 16, 64
DRAWS = (4, 16, 64)


def penchant(*words: str) -> float:
    """Seconds of one command."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "penchant", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def write_small(path: Path) -> None:
    """The shipped pairs with a few of those in training."""
    whole = pq.read_table(SHIPPED_DATA["emoji-pairs"])
    splits = whole["split"].to_pylist()
    train = [row for row, split in enumerate(splits) if split == "train"][:PAIRS]
    others = [row for row, split in enumerate(splits) if split != "train"]
    pq.write_table(whole.take(pa.array(sorted(train + others))), path)


def run(place: Path, name: str, changes: list[str], steps: int) -> dict[str, Any]:
    """Train and evaluate; the last held-out record, what the judge says, and the seconds of training."""
    folder = place / name
    settings = [
        f"data.path={place}/pairs.parquet",
        f"output={folder}",
        f"training.steps={steps}",
        f"training.batch_size={BATCH}",
        f"training.heldout_every={steps}",
        "evaluation.split=validation",
        "evaluation.metric=style",
        f"evaluation.num_prompts={PROMPTS}",
        *changes,
    ]
    demo = Path(__file__).parents[1] / "src/penchant/assets/demo.yaml"
    seconds = penchant("train", str(demo), *(word for setting in settings for word in ("--set", setting)))
    penchant("evaluate", str(folder))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    heldout = [record for record in records if record["split"] == "heldout"][-1]
    return {**heldout, **json.loads((folder / "results.json").read_text()), "train_s": seconds}


def main() -> None:
    """Print one row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    ways = {"fresh": ([], steps * BATCH)} | {
        f"K={draws}": ([f"training.reference={{kind: cached, draws: {draws}}}"], draws * PAIRS)
        for draws in DRAWS
    }
    print("| noise | reference passes | training | accuracy | margin | share | caption match | win-rate |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        write_small(Path(place) / "pairs.parquet")
        for name, (changes, passes) in ways.items():
            found = run(Path(place), name, changes, steps)
            print(
                f"| {name} | {passes:,} | {found['train_s']:.0f} s | {found['margin/positive']:.1%} "
                f"| {found['margin/mean']:.2e} | {found['preferred_share']['tuned']['value']:.1%} "
                f"| {found['caption_match']['tuned']['value']:.1f} | {found['win_rate']['value']:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
