"""Price of a sweep of 8 betas in plain runs; `make bench` prints and stores it.

The plain run encodes images and prompts in each step and holds a frozen copy as the reference, as most
training scripts do; both are evaluated on the same prompts. Each is a command of its own, timed from start to
end, one after the other.

    python benchmarks/sweep.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

BETAS = (3, 10, 30, 100, 300, 1000, 3000, 10000)
PLAIN: dict[str, Any] = {
    "model": "emoji",
    "data": {"path": "emoji-pairs", "streaming": True, "shuffle_buffer": 256},
    "method": "diffusion-dpo",
    "objective": {"beta": 100},
    "terms": [{"kind": "winner-likelihood", "coefficient": 100}],
    "training": {
        "steps": 240,
        "batch_size": 16,
        "learning_rate": 0.001,
        "warmup_steps": 10,
        "reference": {"kind": "copy"},
        "heldout_every": 240,
        "heldout_examples": 16,
        "heldout_draws": 1,
    },
    "evaluation": {
        "split": "validation",
        "num_prompts": 32,
        "num_steps": 10,
        "diversity_prompts": 0,
        "guidance": 1.5,
        "precision": "bfloat16",
        "batch_size": 32,
    },
    "output": "plain",
}


def shared(plain: dict[str, Any]) -> dict[str, Any]:
    """The run in bfloat16, with what a sweep keeps: encodings, and four reference errors of each pair."""
    return {
        **plain,
        "data": {"path": plain["data"]["path"]},
        "training": plain["training"]
        | {"reference": {"kind": "cached", "draws": 4}, "precision": "bfloat16"},
        "output": "sweep",
    }


def seconds(folder: Path, *words: str) -> float:
    """Wall-clock seconds of a command line."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "penchant", *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"penchant {' '.join(words)}: {ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
    return time.perf_counter() - started


def main() -> None:
    """Time one plain run and one sweep, print the price and what the sweep has found, store both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=PLAIN["training"]["steps"], help="of the plain run")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-sweep.json"))
    options = parser.parse_args()
    plain = PLAIN | {"training": PLAIN["training"] | {"steps": options.steps}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, raw in (("plain", plain), ("sweep", shared(plain))):
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        one = seconds(folder, "train", "plain.yaml") + seconds(folder, "evaluate", "plain")
        print(f"plain run: {one:.0f} s", flush=True)
        all_of_them = seconds(folder, "sweep", "sweep.yaml", "--over", f"objective.beta={list(BETAS)}")
        rows = json.loads((folder / "sweep/sweep.json").read_text(encoding="utf-8"))["rows"]
        judged = json.loads((folder / "plain/results.json").read_text(encoding="utf-8"))
    print(f"sweep of {len(BETAS)} betas: {all_of_them:.0f} s, {all_of_them / one:.2f} plain runs\n")
    print("| candidate | step | change | win-rate | share | caption match |\n|---|---|---|---|---|---|")
    for row in rows:
        share, captions = row["preferred_share"][1], row["caption_match"][1]
        print(
            f"| {row['candidate']} | {row['step']} | {row['change']:+.3f} | {row['win_rate'][0]:.1%} "
            f"| {share:.1%} | {captions:.1f} |"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "plain_s": one,
        "sweep_s": all_of_them,
        "ratio": all_of_them / one,
        "rows": rows,
        "plain": judged,
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
