"""Peak memory of the data path of a stream: one epoch over synthetic rows, in a process of its own.

    python benchmarks/stream_memory.py parquet 1000000

writes shards of pairs of 8 x 8 px images (`parquet` or `tar`, 50,000 rows each) to a temporary folder, draws
batches of an epoch through the training source, and prints rows, seconds and the peak of the resident
memory. Every row is read, parsed, named by its content and shuffled in its window; every 16th batch is drawn
(one or more per window), so that its images are decoded and encoded, by stand-ins of no cost.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

SHARD = 50_000
IMAGES = 64
BATCH, BUFFER = 256, 4096
EVERY = BUFFER // BATCH


def images() -> list[bytes]:
    """Different small PNG files."""
    import numpy as np
    from PIL import Image

    encoded = []
    for number in range(IMAGES):
        file = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype="uint8")
        Image.fromarray(noise).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


def write(folder: Path, kind: str, num_rows: int) -> None:
    """Shards of at most `SHARD` rows."""
    pictures = images()
    for start in range(0, num_rows, SHARD):
        stop, name = min(start + SHARD, num_rows), f"train-{start // SHARD:05}"
        if kind == "parquet":
            write_parquet(folder / f"{name}.parquet", range(start, stop), pictures)
        else:
            write_tar(folder / f"{name}.tar", range(start, stop), pictures)


def write_parquet(path: Path, numbers: range, pictures: list[bytes]) -> None:
    """Rows in the columns of Pick-a-Pic."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "caption": [f"prompt {number}" for number in numbers],
        "jpg_0": [pictures[number % IMAGES] for number in numbers],
        "jpg_1": [pictures[(number + 1 + number // IMAGES) % IMAGES] for number in numbers],
        "label_0": [float(number % 2) for number in numbers],
    }
    pq.write_table(pa.table(table), path, row_group_size=256)


def write_tar(path: Path, numbers: range, pictures: list[bytes]) -> None:
    """Samples in the form of WebDataset."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in numbers:
            first, second = pictures[number % IMAGES], pictures[(number + 1 + number // IMAGES) % IMAGES]
            described = json.dumps({"prompt": f"prompt {number}", "scores": [number % 2, 0.5]}).encode()
            for name, content in (("0.png", first), ("1.png", second), ("json", described)):
                info = tarfile.TarInfo(f"{number:08}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            archive.members = []


def measure(folder: Path) -> dict[str, float]:
    """One epoch through the training source."""
    import torch

    from penchant.data.rows import DEFAULT_RULES
    from penchant.data.stream import open_stream
    from penchant.shapes import Shape
    from penchant.training.encode import Preparation
    from penchant.training.stream import StreamSource

    class Nothing:
        def encode_prompts(self, prompts):
            return {"prompt": torch.zeros(len(prompts), 1)}

        def image_conditions(self, framings):
            return {}

        def encode_images(self, pixels):
            return pixels[..., :1, :1], pixels[..., :1, :1]

    torch.set_num_threads(1)
    started = time.perf_counter()
    stream = open_stream(folder, split="train")
    opened = time.perf_counter()
    source = StreamSource(
        stream,
        Shape.PAIR,
        DEFAULT_RULES,
        Nothing(),
        Preparation(sizes=((8, 8),)),
        batch_size=BATCH,
        micro_batch_size=BATCH,
        shuffle_buffer=BUFFER,
        max_broken=0.0,
        prompt_dropout=0.1,
        seed=0,
    )
    for step in range(0, source.reader.steps_per_epoch, EVERY):
        source(step)
        if step // EVERY % 25 == 24:
            print(f"{(step + EVERY) * BATCH:,} rows: {peak()} MiB", file=sys.stderr, flush=True)
    return {
        "rows": len(stream),
        "open_s": round(opened - started, 1),
        "epoch_s": round(time.perf_counter() - opened, 1),
        "peak_MiB": peak(),
    }


def peak() -> float:
    """Largest resident memory of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def main() -> None:
    """Write, measure in a fresh process, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["parquet", "tar"])
    parser.add_argument("rows", type=int)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.kind, given.rows)
        again = [sys.executable, __file__, given.kind, str(given.rows), "--measure", folder]
        print(given.kind, subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


if __name__ == "__main__":
    main()
