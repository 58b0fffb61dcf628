"""Checkpoints: everything a run needs to go on to the bit, written so that none is ever half there."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from penchant.errors import RunFolderError
from penchant.files import give_usual_rights, sha256
from penchant.training import four_bit
from penchant.training.distributed import share, trained_parameters, whole_tensors
from penchant.training.ema import MovingAverage
from penchant.training.health import Health
from penchant.training.loop import Progress, Record
from penchant.training.optim import set_learning_rate
from penchant.training.reference import MovingReference
from penchant.training.timesteps import Importance

logger = logging.getLogger(__name__)

_STATE: Final = "state.json"
_PARTIAL: Final = ".partial-"


@final
@dataclass(slots=True, kw_only=True)
class TrainState:
    """All that changes while a run trains.

    Attributes:
        network: The policy's module, not wrapped for several processes; only what trains is stored.
        optimizer: Its moments.
        schedule: Where the learning rate is.
        progress: Steps and samples done.
        average: Moving average of the weights, if one is kept.
        health: The guards' memory, if they are on.
        importance: The law of the timesteps, if it learns from the run.
        moving: The reference's weights, if they move.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    progress: Progress
    average: MovingAverage | None = None
    health: Health | None = None
    importance: Importance | None = None
    moving: MovingReference | None = None

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name."""
        return trained_parameters(self.network)


def save(state: TrainState, folder: Path, *, main: bool = True) -> Path:
    """Write a checkpoint for the step that `state.progress` stands at.

    It is written beside its place and moved there when it is whole, so a full disk or a kill leaves only what
    was there before.

    Args:
        state: What to store.
        folder: The run's `checkpoints/`.
        main: False on a process that only takes part, because it holds shards of what is written.

    Returns:
        Folder of the new checkpoint.

    Raises:
        RunFolderError: If it cannot be written; older checkpoints are untouched.
    """
    place = folder / f"step-{state.progress.step:08d}"
    partial = folder / f"{_PARTIAL}{place.name}"
    if not main:
        for _ in _tensors(state, main=False):
            pass
        return place
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        hashes = {}
        for name, tensors in _tensors(state, main=True):
            path = partial / f"{name}.safetensors"
            save_file(tensors, path)
            hashes[path.name] = sha256(path)
            _sync(path)
        known = {
            "step": state.progress.step,
            "samples": state.progress.samples,
            "schedule": state.schedule.state_dict(),
            "health": None if state.health is None else state.health.state(),
            "importance": None if state.importance is None else state.importance.state(),
            "files": hashes,
        }
        (partial / _STATE).write_text(json.dumps(known, indent=2, default=float), encoding="utf-8")
        _sync(partial / _STATE)
        give_usual_rights(partial)
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        _sync(folder)
    except (OSError, SafetensorError) as error:  # the writer of safetensors hides the number in its words
        reason = error.strerror if isinstance(error, OSError) else None
        raise RunFolderError(
            f"{place}: the checkpoint cannot be written ({reason or error}). Older checkpoints are "
            "untouched; make room or give write permission, then go on with --resume."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are passed over, and said so."""
    for place in sorted(folder.glob("step-*"), reverse=True):
        if problem := _damage(place):
            logger.warning("%s: %s; the one before it is taken", place, problem)
        else:
            return place
    return None


def load(state: TrainState, place: Path) -> None:
    """Put a checkpoint back, to the bit."""
    stored = json.loads((place / _STATE).read_text(encoding="utf-8"))
    weights = load_file(place / "weights.safetensors")
    trained = state.trained()
    stored_shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    odd = sorted(stored_shapes.items() ^ {name: tuple(p.shape) for name, p in trained.items()}.items())
    if odd:
        raise RunFolderError(
            f"{place}: holds other weights than the run trains, for example {odd[0][0]}. The model, the "
            "adapter's rank or targets, or the training mode has changed; start a new run."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(share(weights[name], parameter))
    _load_optimizer(state.optimizer, trained, load_file(place / "optimizer.safetensors"))
    state.schedule.load_state_dict(stored["schedule"])
    for group, rate in zip(state.optimizer.param_groups, stored["schedule"]["_last_lr"], strict=True):
        set_learning_rate(group, rate)
    state.progress.step, state.progress.samples = stored["step"], stored["samples"]
    if state.health is not None and stored["health"] is not None:
        state.health.load(stored["health"])
    if state.importance is not None and stored["importance"] is not None:
        state.importance.load(stored["importance"])
    if state.average is not None:
        state.average.load(load_file(place / "average.safetensors"))
    if state.moving is not None:
        state.moving.load(load_file(place / "reference.safetensors"))


@final
class Checkpointer:
    """Writes a checkpoint every so many steps and at the end.

    Keeps the newest few, and the newest from before the first warning of the guards.

    Args:
        state: What to store.
        folder: The run's `checkpoints/`.
        every: Steps between checkpoints.
        keep: How many to keep; >= 1.
        main: True on the process that writes.
    """

    def __init__(self, state: TrainState, folder: Path, *, every: int, keep: int, main: bool = True) -> None:
        self.state, self.folder, self.every, self.keep, self.main = state, folder, every, keep, main
        self.written = state.progress.step

    def when_due(self, record: Record) -> None:
        """Write one when it is time."""
        if record.step % self.every == 0:
            self._write()

    def at_end(self) -> None:
        """Write one unless this step has one."""
        if self.state.progress.step != self.written:
            self._write()

    def _write(self) -> None:
        self.written = self.state.progress.step
        place = save(self.state, self.folder, main=self.main)
        if not self.main:
            return
        reached = [other for other in sorted(self.folder.glob("step-*")) if other.name <= place.name]
        kept = {*reached[-self.keep :], *self._last_good(reached)}
        for other in self.folder.glob("*step-*"):  # later and partial ones are leftovers of a killed run
            if other not in kept:
                shutil.rmtree(other)

    def _last_good(self, places: list[Path]) -> list[Path]:
        """The newest checkpoint from before the first warning of the guards."""
        first = None if self.state.health is None else self.state.health.first_warning
        return [] if first is None else [p for p in places if int(p.name.split("-")[1]) < first][-1:]


def _tensors(state: TrainState, *, main: bool) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What each file holds, one after the other; every process has to go through them."""
    trained = state.trained()
    named: dict[str, dict[str, Tensor]] = {"weights": dict(trained), "optimizer": {}}
    for name, parameter in trained.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if key.startswith("qmap"):
                value = value.clone()  # 8-bit levels, one table for all moments: a file holds no shares
            for end, tensor in four_bit.unpacked(torch.as_tensor(value)).items():
                named["optimizer"][f"{name}|{key}{end}"] = tensor
    if state.average is not None:
        named["average"] = dict(state.average.tensors())
    if state.moving is not None:
        named["reference"] = state.moving.tensors()
    for file, tensors in named.items():
        joined = whole_tensors(tensors, main=main)
        yield file, {name: tensor.contiguous() for name, tensor in joined.items()}


def _load_optimizer(
    optimizer: Optimizer, trained: Mapping[str, nn.Parameter], stored: Mapping[str, Tensor]
) -> None:
    states: dict[tuple[str, str], dict[str, Tensor]] = {}
    for path, tensor in stored.items():
        name, _, entry = path.rpartition("|")
        key, dot, end = entry.partition(".")
        states.setdefault((name, key), {})[dot + end] = tensor
    for (name, key), parts in states.items():
        parameter = trained[name]
        if "" not in parts:
            value = four_bit.packed(parts, key, parameter)
        elif key == "step":
            value = _counted(parts[""], parameter.device if optimizer.defaults.get("fused") else None)
        else:
            value = share(parts[""], parameter)
        optimizer.state[parameter][key] = value


def _counted(steps: Tensor, device: torch.device | None) -> Tensor | int:
    """A count of steps as the optimizer keeps it, a tensor where its kernels want it or a number."""
    return steps.to(device) if steps.is_floating_point() else int(steps)


def _damage(place: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        stored: dict[str, Any] = json.loads((place / _STATE).read_text(encoding="utf-8"))
        for name, digest in stored["files"].items():
            if sha256(place / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is not whole ({error})"
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
