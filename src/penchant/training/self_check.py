"""The start-up self-check: one batch before the first step, and what it must show."""

import math
from dataclasses import asdict, dataclass
from typing import final

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from penchant.errors import TrainingStopped
from penchant.protocols import Models
from penchant.slots.compose import Method
from penchant.slots.objectives.pairwise import Logistic
from penchant.training.distributed import trained_parameters, whole
from penchant.training.loop import accumulate, aggregate
from penchant.training.source import GlobalBatch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """What the first batch shows before any step.

    Attributes:
        loss: Of the whole global batch, weights and terms included.
        objective: The objective alone; log 2 for a logistic one.
        margin: Largest |margin| of a group; 0 at policy = reference, or what rounding leaves of it.
        gradient_norm: Before clipping; > 0.
        trainable: Parameters that train.
        parameters: Parameters in all.
        learning_rate: Of the first step and as configured after warm-up.
        batch_size: Groups per optimizer step, over all processes.
        samples: Groups the run will see.
    """

    loss: float
    objective: float
    margin: float | None
    gradient_norm: float
    trainable: int
    parameters: int
    learning_rate: float
    batch_size: int
    samples: int

    def lines(self) -> list[str]:
        """The check as a person reads it."""
        margin = "no reference" if self.margin is None else f"{self.margin:g}"
        loss = f"loss {self.loss:.4f}"
        if f"{self.loss:.4f}" != f"{self.objective:.4f}":
            loss += f" (its objective {self.objective:.4f}, the rest weights and terms)"
        return [
            f"{loss}, margin {margin}, gradient norm {self.gradient_norm:.3g}",
            f"{self.trainable:,} of {self.parameters:,} parameters train "
            f"({self.trainable / self.parameters:.2%})",
            f"learning rate {self.learning_rate:g} (as given, not scaled), {self.batch_size} groups per "
            f"step, {self.samples:,} groups in all",
        ]


def self_check(
    method: Method,
    models: Models,
    network: nn.Module,
    batch: GlobalBatch,
    optimizer: Optimizer,
    *,
    accelerator: Accelerator,
    steps: int,
    learning_rate: float,
    exact: bool = True,
) -> SelfCheck:
    """Measure the first batch; the weights and the optimizer are left as they were.

    Args:
        method: What is trained.
        models: Policy and reference.
        network: The policy's module, prepared.
        batch: The first one.
        optimizer: Over what trains.
        accelerator: Processes and devices.
        steps: Of the run.
        learning_rate: After the warm-up.
        exact: Policy and reference see the same batches; not so if the reference was measured before.

    Raises:
        TrainingStopped: If beta times the margin is more than rounding leaves, a logistic loss is not log 2,
            or the gradient is dead; names the likely cause.
    """
    trained = list(trained_parameters(network).values())
    if not trained:
        raise TrainingStopped("self-check: no parameter trains. Check mode and lora.targets.")
    outputs = accumulate(method, models, network, batch, accelerator)
    metrics = aggregate(outputs, accelerator)
    norm = accelerator.clip_grad_norm_(trained, math.inf)
    optimizer.zero_grad()
    margin = None
    if method.needs_reference:
        margin = max(output.measured["margin/mean"].abs().max().item() for output in outputs)
    check = SelfCheck(
        loss=metrics["loss"],
        objective=metrics["loss/objective"],
        margin=margin,
        gradient_norm=float(whole(norm)) if norm is not None else 0.0,
        trainable=sum(p.numel() for p in trained),
        parameters=sum(p.numel() for p in network.parameters()),
        learning_rate=learning_rate,
        batch_size=batch.size,
        samples=batch.size * steps,
    )
    _require_sound(check, method, exact)
    return check


def _require_sound(check: SelfCheck, method: Method, exact: bool) -> None:
    if not math.isfinite(check.loss) or not math.isfinite(check.gradient_norm):
        raise TrainingStopped(
            f"self-check: the loss is {check.loss} and the gradient norm {check.gradient_norm}: not a "
            "number. Usual causes: images, scores or weights that are not finite."
        )
    scaled = (check.margin or 0.0) * _beta(method)
    if exact and scaled > _EXACT:
        raise TrainingStopped(
            f"self-check: policy and reference differ before the first step, margin {check.margin:g} instead "
            "of 0. Usual causes: dropout that is on, or a reference in another precision."
        )
    if scaled > _ROUNDED:
        raise TrainingStopped(
            "self-check: the cached errors are not those of the policy at its start: the margin is "
            f"{check.margin:g}, times beta {scaled:.2g}. Usual causes: rounding that is too large for this "
            "beta, or errors of other images. Take another kind of reference."
        )
    gap = abs(check.objective - math.log(2)) if isinstance(method.objective, Logistic) else 0.0
    if gap > (_EXACT if exact else _ROUNDED):
        raise TrainingStopped(f"self-check: the objective is {check.objective:.6f}, not log 2 = 0.693147.")
    if not check.gradient_norm > 0:
        raise TrainingStopped(
            "self-check: the gradient is exactly 0. Usual causes: identical images in every pair, or a form "
            "of loss that is stuck at the reference."
        )


def _beta(method: Method) -> float:
    """What the objective multiplies the margin with."""
    return asdict(method.objective).get("beta", 1.0)  # type: ignore[call-overload]


_EXACT, _ROUNDED = 1e-3, 0.02
"""Largest beta times margin before the first step, and distance of a logistic objective from log 2.

A pass may round otherwise than the one before: kernels go by where their data lies in memory. At the
published betas, dropout or a reference in half precision is ten times above the first: docs/decisions/0014.
"""
