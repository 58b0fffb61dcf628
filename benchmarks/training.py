"""Speed and memory of training, trick by trick, against the plain way; `make bench` prints and stores it.

The plain way encodes images and prompts in each step, holds a frozen copy as the reference and computes in
float32. Tensors at the peak, weights included, are counted in a step of their own, as an accelerator would
hold them: without the encoded examples, of which it sees one batch at a time. Resident memory is the
process's above that of the libraries, encoded examples included. Every way runs in a process of its own,
all of them in turns; the speed is that of the fastest round, and ratios are of one session on one machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAIN: dict[str, Any] = {"data.streaming": True, "training.reference.kind": "copy"}
KEPT = {"training.reference.kind": "copy"}
ERRORS = {"training.reference.kind": "cached", "training.reference.draws": 1}
BFLOAT16 = {"training.precision": "bfloat16"}
FULL = {"training.mode": "full"}
THRIFTY = {"training.gradient_checkpointing": True}
PIECES = {"training.micro_batch_size": 4}
FEWER_BITS = {"training.optimizer": "adamw-8bit"}
LARGE = {"training.batch_size": 32}

WAYS: dict[str, dict[str, Any]] = {
    "LoRA, plain": PLAIN,
    "LoRA, latents and embeddings kept": KEPT,
    "LoRA, kept, adapters off": {},
    "LoRA, kept, cached errors": ERRORS,
    "LoRA, kept, adapters off, channels_last": {"channels_last": True},
    "LoRA, kept, adapters off, bfloat16": BFLOAT16,
    "LoRA, kept, cached errors, bfloat16": ERRORS | BFLOAT16,
    "LoRA, kept, cached errors, bfloat16, 4 pairs at once": ERRORS | BFLOAT16 | PIECES,
    "full, plain": PLAIN | FULL,
    "full, latents and embeddings kept": FULL,
    "full, kept, cached errors": ERRORS | FULL,
    "full, kept, cached errors, bfloat16": ERRORS | BFLOAT16 | FULL,
    "full, kept, cached errors, bfloat16, gradient checkpointing": ERRORS | BFLOAT16 | FULL | THRIFTY,
    "full, kept, cached errors, bfloat16, 4 pairs at once": ERRORS | BFLOAT16 | FULL | PIECES,
    "full, kept, cached errors, 8-bit AdamW": ERRORS | FULL | FEWER_BITS,
    "full, kept, cached errors, bfloat16, 8-bit AdamW": ERRORS | BFLOAT16 | FULL | FEWER_BITS,
    "full, kept, cached errors, bfloat16, 8-bit AdamW, 8 pairs at once": ERRORS
    | BFLOAT16
    | FULL
    | FEWER_BITS
    | {"training.micro_batch_size": 8},
    "full of 32 pairs, plain": PLAIN | FULL | LARGE,
    "full of 32 pairs, kept, cached errors, bfloat16": ERRORS | BFLOAT16 | FULL | LARGE,
    "full of 32 pairs, kept, cached errors, bfloat16, gradient checkpointing": ERRORS
    | BFLOAT16
    | FULL
    | THRIFTY
    | LARGE,
}

BATCH = 16
"""Pairs of a step, unless a way says otherwise."""
WARM_UP = 2


def measure(changes: dict[str, Any], steps: int) -> dict[str, float]:
    """Pairs per second, peak memory and set-up time of one way, in this process."""
    import torch

    from penchant import families
    from penchant.runs.assemble import assemble
    from penchant.runs.load import check
    from penchant.runs.manifest import peak_memory
    from penchant.training.live_bytes import LiveBytes
    from penchant.training.loop import fit

    families.quiet()
    libraries = peak_memory()
    raw: dict[str, Any] = {
        "model": "emoji",
        "data": {"path": "emoji-pairs", "heldout_split": None, "shuffle_buffer": 256},
        "method": "diffusion-dpo",
        "objective": {"beta": 100},
        "training": {"steps": steps + 1, "batch_size": BATCH},  # one more, in which tensors are counted
        "output": "unused",
    }
    if changes.get("data.streaming") is not True:
        raw["data"].pop("shuffle_buffer")
    channels_last = changes.pop("channels_last", False)
    for name, value in changes.items():
        *sections, last = name.split(".")
        place = raw
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    started = time.perf_counter()
    parts = assemble(check(raw, where="bench"), where="bench")
    set_up = time.perf_counter() - started
    if channels_last:
        parts.bare.to(memory_format=torch.channels_last)
    common = (parts.method, parts.models, parts.network, parts.sources.train, parts.optimizer, parts.schedule)
    pairs = raw["training"]["batch_size"]
    progress = fit(*common, accelerator=parts.accelerator, steps=WARM_UP)
    started = time.perf_counter()
    fit(*common, accelerator=parts.accelerator, steps=steps, progress=progress)
    seconds = time.perf_counter() - started
    resident = peak_memory() - libraries
    with LiveBytes() as live:
        for part in parts.family.pipeline.components.values():
            live.count(part.parameters() if isinstance(part, torch.nn.Module) else ())
        if parts.models.reference is not None:
            live.count(parts.models.reference.network.parameters())
        for state in parts.optimizer.state.values():
            live.count(value for value in state.values() if isinstance(value, torch.Tensor))
        encoded = live.count(encoded_examples(parts.sources.train))
        fit(*common, accelerator=parts.accelerator, steps=steps + 1, progress=progress)
    return {
        "pairs_per_s": (steps - WARM_UP) * pairs / seconds,
        "step_s": seconds / (steps - WARM_UP),
        "set_up_s": set_up,
        "tensors_mib": (live.peak - encoded) / 2**20,
        "encoded_mib": encoded / 2**20,
        "above_libraries_mib": resident / 2**20,
    }


def encoded_examples(source: Any) -> Iterator[Any]:
    """Tensors of the examples that were encoded before the training; a stream has none."""
    from penchant.training.source import StoredSource

    if isinstance(source, StoredSource):
        examples = source.examples
        errors = () if examples.reference_errors is None else (examples.reference_errors.table,)
        for table in (examples.latents, examples.conditions, *errors):
            for shard in {shard for shard, _ in table.places.tolist()}:
                yield from table.shards[shard].values()


def in_a_process(name: str, changes: dict[str, Any], steps: int) -> dict[str, float]:
    """The numbers of one way, measured in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", json.dumps(changes), "--steps", str(steps)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if ended.returncode:
        sys.exit(f"{name}: {ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    """Measure every way, print the table, store the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help=f"steps of each way, {WARM_UP} not timed")
    parser.add_argument("--rounds", type=int, default=2, help="times that each way is measured")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(json.loads(options.one), options.steps)))
        return
    found: dict[str, dict[str, float]] = {}
    for number in range(1, options.rounds + 1):
        for name, changes in WAYS.items():
            numbers = in_a_process(name, changes, options.steps)
            print(f"round {number}, {name}: {numbers['pairs_per_s']:.1f} pairs/s", flush=True)
            if name not in found or numbers["pairs_per_s"] > found[name]["pairs_per_s"]:
                found[name] = numbers
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print("\n| way | pairs/s | against plain | tensors at the peak | against plain | resident | set-up |")
    print("|---|---|---|---|---|---|---|")
    for name, numbers in found.items():
        plain = found[f"{name.split(',')[0]}, plain"]
        print(
            f"| {name} | {numbers['pairs_per_s']:.1f} "
            f"| {numbers['pairs_per_s'] / plain['pairs_per_s']:.2f} "
            f"| {numbers['tensors_mib']:.0f} MiB "
            f"| {numbers['tensors_mib'] / plain['tensors_mib']:.2f} "
            f"| {numbers['above_libraries_mib']:.0f} MiB "
            f"| {numbers['set_up_s']:.0f} s |"
        )


if __name__ == "__main__":
    main()
