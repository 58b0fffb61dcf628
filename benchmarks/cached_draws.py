"""Cached reference errors at K noise draws against fresh noise: quality and time, on the shipped model.

A small training set is passed over some 70 times, so that few draws are repeated often. The rest is the
demo's; images are judged on the validation captions, not on those of the demo's result.

    python benchmarks/cached_draws.py
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

import penchant as library
from penchant.runs.data import SHIPPED_DATA

PAIRS, STEPS = 64, 280
DEMO = Path(library.__file__).parent / "assets" / "demo.yaml"
WAYS: dict[str, list[str]] = {
    "fresh noise": [],
    **{f"K = {draws}": [f"training.reference={{kind: cached, draws: {draws}}}"] for draws in (4, 16, 64)},
}


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


def measured(folder: Path) -> dict[str, Any]:
    """Held-out numbers of the last step, seconds of all steps, and what the judge says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["split"] == "heldout"][-1]
    steps = [record["time/step_s"] for record in records if record["split"] == "train"]
    return {"last": last, "steps_s": sum(steps), **json.loads((folder / "results.json").read_text())}


def main() -> None:
    """Train and judge each way; print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    print(
        "| noise | held-out accuracy | held-out margin | share | caption match | win-rate | steps | in all |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        write_small(Path(place) / "pairs.parquet")
        for name, changes in WAYS.items():
            folder = Path(place) / name.replace(" ", "")
            changed = [
                f"data.path={place}/pairs.parquet",
                f"output={folder}",
                f"training.steps={options.steps}",
                f"training.heldout_every={options.steps}",
                "evaluation.split=validation",
                "evaluation.num_prompts=96",
                "evaluation.diversity_prompts=0",
                *changes,
            ]
            train = penchant("train", str(DEMO), *(word for c in changed for word in ("--set", c)))
            penchant("evaluate", str(folder))
            found = measured(folder)
            print(
                f"| {name} | {found['last']['margin/positive']:.1%} | {found['last']['margin/mean']:.2e} "
                f"| {found['preferred_share']['tuned']['value']:.1%} "
                f"| {found['caption_match']['tuned']['value']:.1f} | {found['win_rate']['value']:.1%} "
                f"| {found['steps_s']:.0f} s | {train:.0f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
