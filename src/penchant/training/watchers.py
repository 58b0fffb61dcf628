"""Watchers that show and store the numbers of a run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, final

import rich.progress
import torch
from accelerate import Accelerator
from rich.console import Console

from penchant.errors import RunFolderError
from penchant.files import write_text
from penchant.protocols import Models
from penchant.randomness import Randomness
from penchant.slots.compose import Method, step
from penchant.training.loop import Record, aggregate, whole_batch
from penchant.training.source import EncodedExamples, GlobalBatch


@final
class MetricsFile:
    """Appends each record to metrics.jsonl; a resumed run first drops what came after its checkpoint.

    Args:
        path: The file.
        step: Step at which the run goes on; 0 starts the file anew.
    """

    def __init__(self, path: Path, *, step: int = 0) -> None:
        self.path = path
        kept = []
        if step and path.is_file():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
        try:
            write_text(path, "".join(f"{line}\n" for line in kept))
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written ({error.strerror}). Make room.") from error

    def write(self, record: Record) -> None:
        """Append one line."""
        line = json.dumps({"step": record.step, "split": record.split, **record.metrics})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot be written ({error.strerror}). Checkpoints that were written are "
                "whole; make room or give write permission, then go on with --resume."
            ) from error


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # the last line of a killed run may be cut
        return float("inf")


@final
class TensorBoard:
    """Writes each record to TensorBoard event files."""

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: Record) -> None:
        """Write every number."""
        for name, value in record.metrics.items():
            self.writer.add_scalar(f"{record.split}/{name}", value, record.step)

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


@final
class HeldOut:
    """The same numbers on held-out groups, at noise that never changes: every so many steps and at the end.

    Args:
        method: What is trained.
        models: Policy and reference.
        examples: Held-out groups.
        rows: Which of them.
        draws: Random draws per group, which are averaged.
        every: Steps between measurements.
        last: Step after which the run ends.
        batch_size: Groups at once.
        accelerator: Device.
        writers: Called with each record.
    """

    def __init__(
        self,
        method: Method,
        models: Models,
        examples: EncodedExamples,
        *,
        rows: Sequence[int],
        draws: Sequence[Randomness],
        every: int,
        last: int,
        batch_size: int,
        accelerator: Accelerator,
        writers: Sequence[Callable[[Record], None]],
    ) -> None:
        self.method, self.models, self.examples, self.rows = method, models, examples, rows
        self.draws, self.batch_size = draws, batch_size
        self.every, self.last = every, last
        self.accelerator, self.writers = accelerator, writers

    def when_due(self, record: Record) -> None:
        """Measure when it is time."""
        if record.step % self.every == 0 or record.step == self.last:
            measured = self.measure(record.step)
            for write in self.writers:
                write(measured)

    @torch.no_grad()
    def measure(self, at: int) -> Record:
        """The numbers of the held-out groups."""
        outputs = []
        for draws in self.draws:
            pieces = self.examples.pieces(self.rows, self.batch_size)
            micro = tuple(self.examples.batch(piece, draws) for piece in pieces)
            batch = GlobalBatch(micro=micro, draws=draws, epoch=draws.epoch, size=len(self.rows))
            pool = whole_batch(self.method, self.models, batch, self.accelerator)
            for piece in micro:
                on_device = piece.to(self.accelerator.device)
                outputs.append(step(self.method, self.models, on_device, draws, pool=pool))
        metrics = aggregate(outputs, self.accelerator)
        return Record(step=at, split="heldout", metrics=metrics)


@final
class ProgressBar:
    """A line in the terminal with loss, margin, implicit accuracy and the time left; shown inside `with`."""

    def __init__(self, console: Console, *, steps: int, done: int) -> None:
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("training"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self.task = self.bar.add_task("", total=steps, completed=done, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, record: Record) -> None:
        """Move on."""
        m = record.metrics
        numbers = f"loss {m['loss']:.4f}  margin {m['margin/mean']:+.2e}  accuracy {m['margin/positive']:.2f}"
        self.bar.update(self.task, completed=record.step, numbers=numbers)
