"""Numbers on disk, on held-out groups and in the terminal."""

import errno
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests import small

from penchant.errors import RunFolderError
from penchant.randomness import Randomness
from penchant.training.loop import Record
from penchant.training.watchers import HeldOut, MetricsFile, ProgressBar, TensorBoard


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_file_drops_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in (1, 2, 3):
        first.write(Record(step=step, metrics={"loss": step / 2}))
    first.write(Record(step=2, split="heldout", metrics={"loss": 9.0}))
    with path.open("a") as file:
        file.write('{"step": 1, "split": "train", "lo')  # killed while it wrote
    second = MetricsFile(path, step=2)
    second.write(Record(step=3, metrics={"loss": 7.0}))
    assert [(row["step"], row["split"], row["loss"]) for row in lines(path)] == [
        (1, "train", 0.5), (2, "train", 1.0), (2, "heldout", 9.0), (3, "train", 7.0)
    ]  # fmt: skip
    MetricsFile(path)
    assert lines(path) == []


def test_a_full_disk_says_how_to_go_on(tmp_path, monkeypatch):
    file = MetricsFile(tmp_path / "metrics.jsonl")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunFolderError) as caught:
        file.write(Record(step=1))
    assert str(caught.value) == (
        f"{tmp_path}/metrics.jsonl: cannot be written (No space left on device). Checkpoints that were "
        "written are whole; make room or give write permission, then go on with --resume."
    )


@pytest.fixture
def parts(options):
    return small.assembled(options(method="diffusion-kto", objective={"beta": 300}))


def draws_of(seed):
    return [Randomness(run=seed, epoch=-1 - number) for number in range(2)]


def held_out(parts, **options):
    seen = []
    defaults = {"rows": [0, 1, 2, 3, 4, 5], "draws": draws_of(0), "every": 2, "last": 5, "batch_size": 6}
    watcher = HeldOut(
        parts.method,
        parts.models,
        parts.sources.heldout.examples,
        accelerator=parts.accelerator,
        writers=[seen.append],
        **(defaults | options),
    )
    return watcher, seen


def test_held_out_groups_are_measured_at_fixed_noise_in_pieces_of_any_size(parts):
    torch.manual_seed(0)
    for name, parameter in parts.bare.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    watcher, seen = held_out(parts)
    for step in (1, 2, 3, 4, 5):
        watcher.when_due(Record(step=step))
    assert [(record.step, record.split) for record in seen] == [(step, "heldout") for step in (2, 4, 5)]
    assert seen[0].metrics == seen[1].metrics and seen[0].metrics["margin/mean"] != 0
    pieces = held_out(parts, batch_size=1)[0].measure(2).metrics
    assert pieces == pytest.approx(seen[0].metrics, rel=1e-4, abs=1e-6), "also where the batch is coupled"
    assert held_out(parts, draws=draws_of(1))[0].measure(2).metrics != seen[0].metrics
    assert all(p.grad is None for p in parts.bare.parameters())


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.write(Record(step=3, metrics={"loss": 0.5}))
    board.write(Record(step=3, split="heldout", metrics={"loss": 0.25}))
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("heldout/loss")] == [(3, 0.25)]


def test_the_terminal_line():
    shown = io.StringIO()
    record = Record(step=2, metrics={"loss": 0.6931, "margin/mean": 0.002, "margin/positive": 0.75})
    with ProgressBar(Console(file=shown, width=120), steps=4, done=1) as bar:
        bar.show(record)
    assert "2/4" in shown.getvalue()
    assert "loss 0.6931  margin +2.00e-03  accuracy 0.75" in shown.getvalue()


def test_the_terminal_line_is_closed_when_training_fails():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(ZeroDivisionError), ProgressBar(console, steps=4, done=0) as bar:
        raise ZeroDivisionError
    assert not bar.bar.live.is_started
