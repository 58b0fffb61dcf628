"""The learning rate of a training that ends with a wall-clock budget, the same for every part."""

import math

from torch.optim import Optimizer


def set_learning_rate(
    optimizer: Optimizer, peak: float, *, step: int, fraction: float, warmup: int = 50
) -> float:
    """Warm-up over some steps, then a cosine over the budget down to 1 %; returns the rate.

    Args:
        optimizer: All of its groups get the rate.
        peak: Highest rate.
        step: From 0.
        fraction: Part of the budget that is spent; beyond 1 the rate stays at its lowest.
        warmup: Steps until the peak.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(1, fraction)))
    rate = peak * min(1, (step + 1) / warmup) * (0.01 + 0.99 * cosine)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
