"""The one training loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from penchant.protocols import Groups, Models
from penchant.slots.compose import Method, Pool, StepOutput, step
from penchant.training.distributed import trained_parameters, whole
from penchant.training.source import GlobalBatch, Source


@final
@dataclass(slots=True)
class Progress:
    """Where the run is.

    Attributes:
        step: Optimizer steps done.
        samples: Groups seen.
    """

    step: int = 0
    samples: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one step, the same on every process.

    Attributes:
        step: Optimizer steps done, this one included.
        split: `train` or `heldout`.
        metrics: Numbers under the names of `log.METRICS`.
    """

    step: int
    split: str = "train"
    metrics: dict[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who is called as a run goes on, each list in its order; none of them changes the loss.

    Attributes:
        guards: With a step's numbers, before the weights change; may raise TrainingStopped.
        after_step: With a step's numbers, after each optimizer step.
        at_end: Once, when the run is complete or was asked to stop.
    """

    guards: Sequence[Callable[[Record], None]] = ()
    after_step: Sequence[Callable[[Record], None]] = ()
    at_end: Sequence[Callable[[], None]] = ()


def fit(
    method: Method,
    models: Models,
    network: nn.Module,
    source: Source,
    optimizer: Optimizer,
    schedule: LRScheduler,
    *,
    accelerator: Accelerator,
    steps: int,
    max_grad_norm: float = 1.0,
    watchers: Watchers | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train until `steps` optimizer steps are done, or until `stop()` says so.

    Args:
        method: What is trained.
        models: Policy and reference.
        network: The policy's module, prepared by the accelerator.
        source: Gives the batch of each step.
        optimizer: Over the parameters that train.
        schedule: Stepped once per optimizer step.
        accelerator: Processes and devices.
        steps: Optimizer steps in all, those already done included.
        max_grad_norm: The gradient is scaled down to this norm.
        watchers: Who is called as it goes on; nobody if None.
        progress: Where to go on; from the start if None.
        stop: Asked after each step.

    Returns:
        Where the run ended.
    """
    progress, watchers = progress or Progress(), watchers or Watchers()
    trained = list(trained_parameters(network).values())
    while progress.step < steps and not stop():
        started = time.perf_counter()
        batch = source(progress.step)
        outputs = accumulate(method, models, network, batch, accelerator)
        norm = accelerator.clip_grad_norm_(trained, max_grad_norm)
        assert norm is not None
        record = Record(step=progress.step + 1, metrics=aggregate(outputs, accelerator))
        record.metrics.update(
            {
                "gradient/norm": float(whole(norm)),
                "learning_rate": float(optimizer.param_groups[0]["lr"]),
                "epoch": batch.epoch,
                "samples": progress.samples + batch.size,
                **summed(batch.counted, accelerator),
            }
        )
        for guard in watchers.guards:
            guard(record)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.step += 1
        progress.samples += batch.size
        seconds = time.perf_counter() - started
        record.metrics.update({"time/step_s": seconds, "time/samples_per_s": batch.size / seconds})
        for watch in watchers.after_step:
            watch(record)
    for end in watchers.at_end:
        end()
    return progress


def accumulate(
    method: Method, models: Models, network: nn.Module, batch: GlobalBatch, accelerator: Accelerator
) -> list[StepOutput]:
    """Gradient of the mean loss over the global batch, piece by piece; gradients sync on the last piece."""
    device = accelerator.device
    local = sum(len(piece.ids) for piece in batch.micro)
    pool = whole_batch(method, models, batch, accelerator)
    outputs = []
    for number, piece in enumerate(batch.micro, start=1):
        last = number == len(batch.micro)
        with nullcontext() if last else accelerator.no_sync(network):
            output = step(method, models, piece.to(device), batch.draws, pool=pool)
            accelerator.backward(output.loss * (len(piece.ids) / local))
        outputs.append(output)
    return outputs


def whole_batch(method: Method, models: Models, batch: GlobalBatch, accelerator: Accelerator) -> Pool | None:
    """For objectives that couple the batch: how to see the groups of all pieces and processes.

    With a single piece its own groups are gathered; with several, all are measured once without gradient
    first, because the first piece needs what the last one says.
    """
    if not method.objective.couples_batch:
        return None
    if len(batch.micro) == 1:
        return lambda groups: gathered(groups, accelerator)
    with torch.no_grad():
        pieces = [
            method.ratio(models, piece.to(accelerator.device), batch.draws).tensors() for piece in batch.micro
        ]
    joined: dict[str, Any] = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    whole = gathered(Groups(**joined), accelerator)
    return lambda _: whole


def gathered(groups: Groups, accelerator: Accelerator) -> Groups:
    """The groups of all processes."""
    fields: dict[str, Any] = {
        name: accelerator.gather(value.contiguous()) for name, value in groups.tensors().items()
    }
    return Groups(**fields)


def summed(counted: Mapping[str, int], accelerator: Accelerator) -> dict[str, float]:
    """Counts over all processes."""
    if not counted:
        return {}
    own = torch.tensor([list(counted.values())], device=accelerator.device)
    everywhere = accelerator.gather(own)
    assert isinstance(everywhere, Tensor)
    return dict(zip(counted, everywhere.sum(0).tolist(), strict=True))


BUCKETED = (
    "loss",
    "margin/mean",
    "margin/positive",
    "error/winner_change",
    "error/loser_change",
    "gradient/factor",
)


def aggregate(outputs: Sequence[StepOutput], accelerator: Accelerator) -> dict[str, float]:
    """Exact means over the groups of all pieces and processes, and by quarter of the noise scale."""
    columns = [_columns(output) for output in outputs]
    table = torch.cat([torch.stack(list(part.values()), 1) for part in columns])
    whole = accelerator.gather(table.contiguous())  # one exchange and one copy for all numbers
    assert isinstance(whole, Tensor)
    measured = dict(zip(columns[0], whole.cpu().double().unbind(1), strict=True))
    time = measured.pop("time", None)
    metrics = {name: _mean(name, values) for name, values in measured.items()}
    if time is not None:
        quarter = (time * 4).long().clamp(0, 3)
        for name in BUCKETED:
            for bucket in range(4) if name in measured else ():
                metrics[f"{name}/t{bucket}"] = _mean(name, measured[name][quarter == bucket])
    return {name: value for name, value in metrics.items() if value is not None}


def _columns(output: StepOutput) -> dict[str, Tensor]:
    """The numbers of each group, with its place on the noise scale if it has one."""
    return output.measured if output.time is None else {**output.measured, "time": output.time.float()}


def _mean(name: str, values: Tensor) -> float | None:
    """Mean of the groups that have this number; None if none has. A loss that is not a number stays one."""
    known = values if name in ("loss", "margin/mean") else values[~values.isnan()]
    return float(known.mean()) if len(known) else None
