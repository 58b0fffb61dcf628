"""Tiny pictures, pairs, lists and runs of them: everything in seconds, on one core."""

import contextlib
import io
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from penchant.runs.folder import RunFolder


def picture(number: int, brightness: int, *, width: int = 16, height: int = 16) -> bytes:
    """A noisy PNG."""
    noise = np.random.default_rng(number).normal(brightness, 40, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(noise, 0, 255).astype("uint8")).save(file, "PNG")
    return file.getvalue()


def write_pairs(path: Path, *, train: int = 12, others: int = 4) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    splits = ["train"] * train + ["validation"] * others + ["test"] * others
    rows = [
        {
            "caption": f"thing {number}",
            "jpg_0": picture(2 * number, 200 if number % 2 else 60),
            "jpg_1": picture(2 * number + 1, 60 if number % 2 else 200),
            "label_0": float(number % 2),
            "label_1": float(1 - number % 2),
            "split": split,
        }
        for number, split in enumerate(splits)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_shards(folder: Path) -> Path:
    """Three files of 8 training pairs each, of which one has an image of 0 bytes, and a file of 8 others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"train-{number:05}-of-00003" for number in range(3)]
    for number, name in enumerate([*names, "validation-00000-of-00001"]):
        rows = [
            {
                "caption": f"thing {number}",
                "jpg_0": b"" if number == 11 else picture(2 * number, 200),
                "jpg_1": picture(2 * number + 1, 60),
                "label_0": float(number % 2),
            }
            for number in range(8 * number, 8 * number + 8)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", row_group_size=3)
    return folder


def write_photos(path: Path, sizes: list[tuple[int, int]]) -> Path:
    """Twelve training and four held-out pairs whose winners have these widths and heights in turn."""
    from penchant.data.rows import Candidate, Example
    from penchant.data.store import write_parquet

    examples = []
    for number in range(16):
        width, height = sizes[number % len(sizes)]
        winner = Candidate(image=picture(2 * number, 200, width=width, height=height))
        loser = Candidate(image=picture(2 * number + 1, 60))
        split = "train" if number < 12 else "validation"
        examples.append(
            Example(prompt=f"p {number}", candidates=(winner, loser), preference=(1.0, 0.0), split=split)
        )
    write_parquet(examples, path)
    return path


def write_lists(path: Path, *, rows: int = 8) -> Path:
    from penchant.data.rows import Candidate, Example
    from penchant.data.store import write_parquet

    examples = []
    for number in range(rows):
        scores = [0.1, 0.9, 0.5, 0.3][: 3 + number % 2]
        candidates = tuple(
            Candidate(image=picture(100 + 4 * number + k, int(250 * score))) for k, score in enumerate(scores)
        )
        examples.append(
            Example(prompt=f"list {number}", candidates=candidates, preference=tuple(scores), split="train")
        )
    write_parquet(examples, path)
    return path


def run_options(model: Path, data: Path, output: Path, changes: dict) -> dict:
    """A small run: pieces of a batch, a moving average and, where they are read, held-out pairs are on."""
    raw = {
        "model": str(model),
        "data": {"path": str(data)},
        "method": "diffusion-dpo",
        "objective": {"beta": 500},
        "training": {
            "steps": 2,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-3,
            "checkpoint_every": 2,
            "heldout_every": 2,
            "heldout_draws": 2,
            "lora": {"rank": 2},
            "ema": 0.5,
        },
        "output": str(output),
    }
    for name, value in changes.items():
        *sections, last = name.split(".")
        place = raw
        for section in sections:
            place = place.setdefault(section, {})
        if value is REMOVED:
            place.pop(last, None)
        else:
            place[last] = value
    if raw["data"].get("heldout_split", "") is None or raw["method"] == "d3po":
        for name in {"heldout_every", "heldout_draws"} - {name.rpartition(".")[2] for name in changes}:
            raw["training"].pop(name, None)
    return raw


REMOVED = object()
"""Value of a change that takes an option out."""


def train(raw: dict, *, resume: bool = False, output: Path | None = None):
    """Train in this process; the run folder and what was shown."""
    from rich.console import Console

    from penchant.runs.folder import RunFolder
    from penchant.runs.load import check
    from penchant.runs.train import train as run_training

    run = check(raw, where="run.yaml")
    path = output or Path(run.output)
    folder = RunFolder(path) if resume else RunFolder.create(path)
    shown = io.StringIO()
    run_training(run, folder, resume=resume, console=Console(file=shown, width=200), where="run.yaml")
    return folder, shown.getvalue()


def untrained(raw: dict, **manifest) -> "RunFolder":
    """Folder of a finished run without its weights, which the caller puts in."""
    from penchant.families import resolve
    from penchant.hub import model_hash
    from penchant.runs.folder import RunFolder
    from penchant.runs.load import check, dump

    run = check(raw, where="run.yaml")
    folder = RunFolder.create(Path(run.output))
    folder.run_file.write_text(dump(run), encoding="utf-8")
    hashes = {"model_hash": model_hash(resolve(run.model)), "data_hash": "ab" * 32}
    known = {"complete": True, **hashes, **manifest}
    folder.manifest.write_text(json.dumps(known), encoding="utf-8")
    return folder


def write_checkpoint(folder: "RunFolder", step: int, *, weights: str = "weights", **tensors) -> None:
    """A checkpoint of a LoRA or a network, with nothing but its weights."""
    from safetensors.torch import save_file

    place = folder.checkpoints / f"step-{step:08d}"
    place.mkdir(parents=True)
    save_file(tensors, place / f"{weights}.safetensors")
    (place / "state.json").write_text(json.dumps({"files": {}}), encoding="utf-8")


NO_SIDE = (
    "unet/config.json: sample_size must be a whole number, the side of a latent, got None. Write it there: "
    "64 for images of 512 pixels, 128 for 1024."
)
"""What a family says of `without_side`."""


def without_side(model: Path, folder: Path) -> Path:
    """A copy of a model whose UNet does not say how large its latents are."""
    shutil.copytree(model, folder)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": None}), encoding="utf-8")
    return folder


def in_training(adapter: dict) -> dict:
    """Tensors of an exported adapter under the names that they have in the network."""
    return {
        name.partition(".")[2].replace("_A.", "_A.default.").replace("_B.", "_B.default."): tensor
        for name, tensor in adapter.items()
    }


def assembled(raw: dict):
    """Every object of a run, built as `penchant train` builds it."""
    from penchant.runs.assemble import assemble
    from penchant.runs.load import check

    return assemble(check(raw, where="run.yaml"), where="run.yaml")


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def adapter(folder: Path):
    """Tensors and metadata of the exported adapter."""
    from safetensors import safe_open

    with safe_open(folder / "adapter" / "pytorch_lora_weights.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def assert_same_adapter(folder: Path, other: Path) -> None:
    """To the bit; the file's own bytes differ, because safetensors writes its metadata in random order."""
    (a, notes), (b, other_notes) = adapter(folder), adapter(other)
    assert notes == other_notes
    assert a.keys() == b.keys() and len(a) > 0
    assert all((a[name] == b[name]).all() for name in a)


def command(arguments: list[str], output: str, environment: dict[str, str]) -> None:
    """Target of a fresh process: the command line, its output in a file."""
    os.environ.update(environment)
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["penchant", *arguments]
    from penchant.cli import main

    with contextlib.suppress(BrokenPipeError):
        main.run()


def several(calls: list, output: str, environment: dict[str, str]) -> None:
    """Target of one of several processes: one call after the other, their output in a file."""
    os.environ.update(environment)
    with open(output, "w", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for call in calls:
        call()


def line(*arguments: str) -> None:
    """One command line; a code that is not 0 is printed."""
    from penchant.cli import main

    sys.argv = ["penchant", *arguments]
    try:
        main.run()
    except SystemExit as end:
        if end.code:
            sys.stdout.write(f"exit code {end.code}\n")
            sys.stdout.flush()


def shards_on_cpu() -> None:
    """Let accelerate shard without a GPU: its plugin can, but its state switches it on for GPUs alone."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    Accelerator(cpu=True)
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
        cpu_ram_efficient_loading=False
    )


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


class Launcher:
    """Starts `penchant` in processes of their own, which find the heavy packages already imported."""

    def __init__(self) -> None:
        import multiprocessing

        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["penchant.runs.train", "torch.utils.tensorboard", __name__])

    def start(self, *arguments: str, output: Path, **environment: str):
        process = self.context.Process(
            target=command, args=(list(arguments), str(output), environment), daemon=True
        )
        process.start()
        return process

    def start_two(self, *calls, outputs: tuple[Path, Path], **environment: str) -> list:
        """Two processes that find each other and make the same calls, as `torchrun` starts them."""
        common = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": free_port(), **environment}
        processes = []
        for rank in ("0", "1"):
            place = {"RANK": rank, "LOCAL_RANK": rank, **common}
            process = self.context.Process(
                target=several, args=(list(calls), str(outputs[int(rank)]), place), daemon=True
            )
            process.start()
            processes.append(process)
        return processes
