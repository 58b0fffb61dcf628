"""Time of a step over streamed JPEGs, with and without reading ahead, side by side in one process.

    python benchmarks/stream_ahead.py

writes pairs of JPEG files of 512 x 512 px to a temporary folder and draws batches of them through the
training source, with stand-ins of no cost for VAE and text encoder. The step itself takes about as long as
reading does. It is a convolution, forwards and backwards, that competes for the processor (`computing`), or
it only waits, as a process does whose accelerator computes (`waiting`). Rounds with and without reading ahead
take turns; printed are medians and means over all steps.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from penchant.data.rows import DEFAULT_RULES
from penchant.data.stream import open_stream
from penchant.shapes import Shape
from penchant.training.ahead import AHEAD
from penchant.training.encode import Preparation
from penchant.training.stream import StreamSource

SIDE, ROWS, BATCH, BUFFER = 512, 128, 4, 32
STEPS = 16
"""Steps of a round."""


class Nothing:
    """Encoders that cost nothing."""

    def encode_prompts(self, prompts):
        """One number each."""
        return {"prompt": torch.zeros(len(prompts), 1)}

    def image_conditions(self, framings):
        """None."""
        return {}

    def encode_images(self, pixels):
        """A corner of each."""
        return pixels[..., :1, :1], pixels[..., :1, :1]


def picture(number: int) -> bytes:
    """A JPEG file with smooth areas and some grain."""
    draws = np.random.default_rng(number)
    coarse = Image.fromarray(draws.integers(0, 256, (24, 24, 3), dtype="uint8"))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype="int16")
    grain = draws.normal(0, 6, (SIDE, SIDE, 1)).astype("int16")
    file = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype("uint8")).save(file, "JPEG", quality=90)
    return file.getvalue()


def write(folder: Path) -> float:
    """Two files in the columns of Pick-a-Pic; the mean size of an image in KiB."""
    pictures = [picture(number) for number in range(ROWS)]
    for shard in range(2):
        numbers = range(shard * ROWS // 2, (shard + 1) * ROWS // 2)
        table = {
            "caption": [f"prompt {number}" for number in numbers],
            "jpg_0": [pictures[number] for number in numbers],
            "jpg_1": [pictures[(number + 1) % ROWS] for number in numbers],
            "label_0": [1.0 for _ in numbers],
        }
        pq.write_table(pa.table(table), folder / f"train-{shard:05}.parquet", row_group_size=8)
    return statistics.fmean(map(len, pictures)) / 2**10


def source(folder: Path, *, ahead: int) -> StreamSource:
    """The training source."""
    return StreamSource(
        open_stream(folder),
        Shape.PAIR,
        DEFAULT_RULES,
        Nothing(),
        Preparation(sizes=((SIDE, SIDE),)),
        batch_size=BATCH,
        micro_batch_size=BATCH,
        shuffle_buffer=BUFFER,
        max_broken=0.0,
        prompt_dropout=0.0,
        seed=0,
        ahead=ahead,
    )


def compute(repeats: int) -> None:
    """Stands for the training of a network."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    for _ in range(repeats):
        layer(torch.zeros(4, 64, 64, 64)).sum().backward()


def timed(stream: StreamSource, first: int, step_itself: Callable[[], None]) -> list[float]:
    """Seconds of each step of a round."""
    seconds = []
    for step in range(first, first + STEPS):
        started = time.perf_counter()
        stream(step)
        step_itself()
        seconds.append(time.perf_counter() - started)
    stream.close()
    return seconds


def main() -> None:
    """Write, calibrate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help=f"rounds of {STEPS} steps, each way")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder)
        print(f"{ROWS} pairs of {SIDE} px, {size:.0f} KiB an image, batches of {BATCH}")
        ways = {number: source(folder, ahead=number) for number in (0, AHEAD)}
        reading = statistics.fmean(timed(ways[0], 0, lambda: None))
        started = time.perf_counter()
        compute(10)
        repeats = max(1, round(reading * 10 / (time.perf_counter() - started)))
        print(f"reading alone: {reading:.3f} s a step")
        kinds = {"computing": lambda: compute(repeats), "waiting": lambda: time.sleep(reading)}
        for kind, step_itself in kinds.items():
            found: dict[int, list[float]] = {number: [] for number in ways}
            for number in range(rounds):
                for ahead, stream in ways.items():
                    found[ahead] += timed(stream, STEPS * number, step_itself)
            for ahead, seconds in found.items():
                median, mean = statistics.median(seconds), statistics.fmean(seconds)
                print(f"{kind}, {ahead} steps ahead: median {median:.3f} s, mean {mean:.3f} s a step")
            print(f"{kind}: ratio {statistics.fmean(found[AHEAD]) / statistics.fmean(found[0]):.2f}")


if __name__ == "__main__":
    main()
