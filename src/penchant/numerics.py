"""Numerical building blocks that objectives, scores and files share.

Axes: B groups, N rows or images, D elements, C channels, H W pixels.
"""

import sys

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Promote half precision to float32; leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_over_elements(
    values: Float[Tensor, " N *D"], weight: Float[Tensor, "N *#D"] | None = None
) -> Float[Tensor, " N"]:
    """Mean over all axes but the first, in at least float32.

    Args:
        values: One block of elements per row.
        weight: Optional weight of each element, broadcast over missing axes; the mean is divided by the sum
            of weights.

    Returns:
        One number per row.
    """
    values = at_least_float32(values).flatten(1)
    if weight is None:
        return values.mean(1)
    weight = weight.flatten(1)
    return (values * weight).sum(1) / weight.sum(1)


def accelerator_or_cpu() -> torch.device:
    """Where models run that are on no device of their own: the accelerator if there is one."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def eight_bit(images: Float[Tensor, "*N C H W"]) -> UInt8[Tensor, "*N H W C"]:
    """Images in [0, 1] as files hold them: cut to the range, rounded to 8 bits, channels last, on the CPU."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.movedim(-3, -1).contiguous().cpu()


def is_finite(value: int | float) -> bool:
    """True for a number that is finite as a float; whole numbers, as in JSON, may be too large for one."""
    return -sys.float_info.max <= value <= sys.float_info.max


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless an option is > 0."""
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")
