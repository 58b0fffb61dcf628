"""MaPO: reference-free; the winner's own error plus a bounded margin between squashed errors.

The form is that of the released code. The formula as printed in the paper (an exponent or a factor beta,
UNVERIFIED which) equals neither; nothing here is called beta, because the paper's and the code's differ.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.numerics import at_least_float32, require_positive
from penchant.protocols import Evidence, Groups
from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.weights.uniform import Uniform


def squashed(error: Float[Tensor, " *B"], *, squash: float) -> Float[Tensor, " *B"]:
    """phi(l) = s l / (exp(s l) - 1): 1 at error 0, decreasing, in (0, 1].

    Args:
        error: Denoising error, >= 0.
        squash: s, > 0.
    """
    x = squash * error
    safe = torch.where(x == 0, 1.0, x)  # 0 / 0 at x = 0, where the limit is 1 - x / 2
    return torch.where(x == 0, 1 - x / 2, safe * torch.exp(-safe) / -torch.expm1(-safe))  # never overflows


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerAndMargin:
    r"""L = err_w + weight * (-log sigmoid(sharpness * (phi(err_w) - phi(err_l)))).

    Attributes:
        weight: Weight of the margin part (0.1 in the code; there called beta_mapo); > 0.
        sharpness: Steepness of the sigmoid; the code uses the 1000 training timesteps; > 0.
        squash: s of `squashed`; a plain constant, called SNR in the code; > 0.

    Source:
        Hong et al. 2024, arXiv:2406.06424, released code.
    """

    shape: ClassVar[Shape] = Shape.PAIR
    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.ERROR})
    couples_batch: ClassVar[bool] = False

    weight: float = 0.1
    sharpness: float = 1000.0
    squash: float = 0.5

    def __post_init__(self) -> None:
        for name in ("weight", "sharpness", "squash"):
            require_positive(name, getattr(self, name))

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        error = -at_least_float32(groups.log_policy)
        score = squashed(error, squash=self.squash)
        margin = self.sharpness * (score[:, 0] - score[:, 1])
        return error[:, 0] + self.weight * F.softplus(-margin)


METHOD = Method(
    name="mapo",
    source="Hong et al. 2024, arXiv:2406.06424, released code",
    shape=Shape.PAIR,
    ratio=Denoising(scale=1.0, shared_noise=True),
    objective=WinnerAndMargin(),
    weight=Uniform(),
)
