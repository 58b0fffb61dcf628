"""Optimizers and learning-rate schedules; a learning rate is never scaled silently."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from penchant.training import four_bit
from penchant.training.quantized import bitsandbytes


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    name: Literal["adamw", "adamw-8bit", "adamw-4bit", "adafactor"],
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    epsilon: float,
) -> Optimizer:
    """An optimizer over the parameters that train.

    Args:
        parameters: All of them train.
        name: AdamW; the same with moments in blocks of 8 bits (Dettmers et al. 2021, arXiv:2110.02861; those
            of tensors below 4,096 elements stay float32) or of 4 (`four_bit.adamw`); or Adafactor (factored
            second moments; betas and epsilon do not apply to it).
        learning_rate: As it is used; not multiplied by batch, accumulation or processes.
        betas: Decay of the moments, AdamW.
        weight_decay: Decoupled.
        epsilon: Added to the root of the second moment, AdamW.

    Raises:
        ConfigError: The package of the optimizer is not installed, or does not run here.
    """
    if name == "adamw-4bit":
        return four_bit.adamw(
            parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, eps=epsilon
        )
    if name == "adamw-8bit":
        low_bit = bitsandbytes("training.optimizer: adamw-8bit")
        return low_bit.optim.AdamW8bit(
            parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, eps=epsilon
        )
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.AdamW(
        parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, eps=epsilon, fused=True
    )


def build_schedule(
    optimizer: Optimizer, *, name: Literal["constant", "linear", "cosine"], warmup_steps: int, steps: int
) -> LambdaLR:
    """Linear warm-up, then constant, or falling to 0 at the last step along a line or half a cosine."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if name == "constant":
            return 1.0
        done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        return 1 - done if name == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    schedule = LambdaLR(optimizer, factor)
    schedule.base_lrs = [float(rate) for rate in schedule.base_lrs]  # some optimizers keep tensors
    return schedule


def set_learning_rate(group: dict[str, Any], rate: float) -> None:
    """Give a parameter group its rate, in the tensor that the optimizer keeps it in, if it does."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
