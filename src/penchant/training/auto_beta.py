"""`beta: auto`: the beta at which learnt pairs still pull as hard as asked, on the mean.  Axes: B pairs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from penchant.errors import ConfigError
from penchant.protocols import Groups, Models
from penchant.slots.compose import Method, StepOutput, gradient_factor
from penchant.slots.objectives.pairwise import Logistic
from penchant.training.loop import accumulate
from penchant.training.source import Source

_BETA_TIMES_MARGIN: Final = np.geomspace(1e-6, 100, 400)
"""Mean of |beta * margin| where a beta is looked for: from pairs at rest to pairs all but decided."""


def auto_beta(
    method: Method,
    models: Models,
    network: nn.Module,
    source: Source,
    optimizer: Optimizer,
    *,
    accelerator: Accelerator,
    aim: float,
    probe_steps: int,
    max_grad_norm: float,
    where: str,
) -> float:
    """Find beta from a short probe of real training steps, which are then undone.

    It is the smallest at which the gradient factor, as training logs it, has the mean that is asked for over
    the pairs of the last quarter of the probe.

    Args:
        method: The method, at a beta for the probe.
        models: Policy and reference.
        network: The policy's module.
        source: Batches of the run.
        optimizer: A fresh one over what trains; not the run's own.
        accelerator: Device and processes.
        aim: Mean gradient factor asked for, in (0, 0.5).
        probe_steps: Steps of the probe.
        max_grad_norm: The gradient is scaled down to this norm, as in the run.
        where: Name of the run file, for messages.

    Returns:
        Beta, to two significant digits.

    Raises:
        ConfigError: The objective is not logistic, or no beta has such a mean.
    """
    objective = method.objective
    if not isinstance(objective, Logistic):
        raise ConfigError(
            f"{where}: objective.beta: `auto` is defined for the logistic objective, "
            f"got {type(objective).__name__}. Give beta a number."
        )
    method = replace(method, terms=())  # a term keeps its own scale and would drown the probe
    trained = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    margins: list[Float[Tensor, " B"]] = []
    for number in range(probe_steps):
        outputs = accumulate(method, models, network, source(number), accelerator)
        margins.append(pair_margins(outputs, accelerator))
        accelerator.clip_grad_norm_(trained, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for parameter, value in zip(trained, before, strict=True):
            parameter.copy_(value)
    tail = torch.cat(margins[-max(1, probe_steps // 4) :])
    if not 0 < float(tail.abs().mean()) < float("inf"):  # also when it is not a number
        raise ConfigError(
            f"{where}: objective.beta: `auto` found no margin to aim at: after {probe_steps} probe steps the "
            f"mean margin is {float(tail.mean()):.3g}. Raise the learning rate or auto_beta.probe_steps, or "
            "give beta a number."
        )
    beta, lowest = beta_with_mean_factor(objective, tail, aim)
    if beta is None:
        raise ConfigError(
            f"{where}: objective.beta: `auto` cannot bring the mean gradient factor to {aim:g}: after "
            f"{probe_steps} probe steps {float((tail < 0).double().mean()):.0%} of the pairs have a negative "
            f"margin, and {lowest:.3g} is the lowest that any beta reaches. Raise auto_beta.gradient_factor "
            "above that, or the learning rate or auto_beta.probe_steps, or give beta a number."
        )
    return float(f"{beta:.2g}")


def pair_margins(outputs: Sequence[StepOutput], accelerator: Accelerator) -> Float[Tensor, " B"]:
    """Margins of the pairs of all pieces and processes, in float64, without the ties, which never pull."""
    names = ("margin/mean", "gradient/factor")
    table = torch.cat([torch.stack([output.measured[name] for name in names], 1) for output in outputs])
    everywhere = accelerator.gather(table.contiguous())
    assert isinstance(everywhere, Tensor)
    margin, factor = everywhere.cpu().double().unbind(1)
    return margin[~factor.isnan() | margin.isnan()]


def beta_with_mean_factor(
    objective: Logistic, margin: Float[Tensor, " B"], aim: float
) -> tuple[float | None, float]:
    """The smallest beta at which the mean gradient factor falls to the aim, and the lowest mean of any beta.

    Args:
        objective: Whose factor it is; its own beta does not count.
        margin: Of each pair, in nats; finite, not all 0.
        aim: Mean gradient factor asked for, in (0, 0.5).

    Returns:
        Beta, or None if the mean stays above the aim: it does where too many margins are negative.
    """
    rest = torch.zeros(len(margin), 2, dtype=margin.dtype)
    groups = Groups(log_policy=torch.stack([margin, rest[:, 1]], 1), log_reference=rest)

    def mean_factor(beta: float) -> float:
        return float(gradient_factor(replace(objective, beta=beta), groups).mean())

    betas = (_BETA_TIMES_MARGIN / float(margin.abs().mean())).tolist()
    factors = [mean_factor(beta) for beta in betas]
    first = next((index for index, factor in enumerate(factors) if factor <= aim), None)
    if first is None:
        return None, min(factors)
    low, high = betas[max(first - 1, 0)], betas[first]
    while high / low > 1 + 1e-9:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if mean_factor(middle) <= aim else (middle, high)
    return high, min(factors)


def with_beta(method: Method, beta: float) -> Method:
    """The method at another beta."""
    objective: Any = method.objective
    return replace(method, objective=replace(objective, beta=beta))
