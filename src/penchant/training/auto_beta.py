"""`beta: auto`: the beta at which a learnt pair still pulls as hard as asked."""

import math
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from penchant.errors import ConfigError
from penchant.protocols import Models
from penchant.slots.compose import Method
from penchant.slots.objectives.pairwise import Logistic
from penchant.training.loop import accumulate, aggregate
from penchant.training.source import Source


def auto_beta(
    method: Method,
    models: Models,
    network: nn.Module,
    source: Source,
    optimizer: Optimizer,
    *,
    accelerator: Accelerator,
    gradient_factor: float,
    probe_steps: int,
    max_grad_norm: float,
    where: str,
) -> float:
    """Find beta from a short probe of real training steps, which are then undone.

    With m the mean margin over the last quarter of the probe, sigmoid(-beta * m) is the gradient factor that
    is asked for.

    Args:
        method: The method, at a beta for the probe.
        models: Policy and reference.
        network: The policy's module.
        source: Batches of the run.
        optimizer: A fresh one over what trains; not the run's own.
        accelerator: Device and processes.
        gradient_factor: Aim, in (0, 0.5).
        probe_steps: Steps of the probe.
        max_grad_norm: The gradient is scaled down to this norm, as in the run.
        where: Name of the run file, for messages.

    Returns:
        Beta, to two significant digits.
    """
    if not isinstance(method.objective, Logistic):
        raise ConfigError(
            f"{where}: objective.beta: `auto` is defined for the logistic objective, "
            f"got {type(method.objective).__name__}. Give beta a number."
        )
    method = replace(method, terms=())  # a term keeps its own scale and would drown the probe
    trained = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    margins = []
    for number in range(probe_steps):
        outputs = accumulate(method, models, network, source(number), accelerator)
        margins.append(aggregate(outputs, accelerator)["margin/mean"])
        accelerator.clip_grad_norm_(trained, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for parameter, value in zip(trained, before, strict=True):
            parameter.copy_(value)
    tail = margins[-max(1, probe_steps // 4) :]
    margin = sum(tail) / len(tail)
    if not margin > 0:
        raise ConfigError(
            f"{where}: objective.beta: `auto` found no margin to aim at: after {probe_steps} probe steps the "
            f"mean margin is {margin:.3g}. Raise the learning rate or auto_beta.probe_steps, or give beta a "
            "number."
        )
    return float(f"{math.log((1 - gradient_factor) / gradient_factor) / margin:.2g}")


def with_beta(method: Method, beta: float) -> Method:
    """The method at another beta."""
    objective: Any = method.objective
    return replace(method, objective=replace(objective, beta=beta))
