"""Weight by the noise level at which a group was measured.  Axes: B groups."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.protocols import Evidence, Groups


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseLevel:
    """w = sigmoid(bias - log SNR): more weight on noisy steps, where layout and style are decided.

    Attributes:
        bias: Log SNR at which the weight is 1/2; larger means less noisy steps count too.

    Source:
        The weight of Lee et al. 2025 (CaPO), arXiv:2502.02588, there inside the reward; best bias 1.5.
    """

    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.NOISE_LEVEL})

    bias: float = 1.5

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Weight of each group."""
        assert groups.log_snr is not None, "compose checks that the ratio provides the noise level"
        return torch.sigmoid(self.bias - groups.log_snr)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseWindow:
    """Weight 1 inside a window of the noise scale, 0 outside.

    Attributes:
        low: Lower end, 0 is clean; in [0, high).
        high: Upper end, 1 is pure noise; in (low, 1].
    """

    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.NOISE_LEVEL})

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"need 0 <= low < high <= 1, got low {self.low} and high {self.high}")

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Weight of each group."""
        assert groups.time is not None, "compose checks that the ratio provides the noise level"
        return ((groups.time >= self.low) & (groups.time < self.high)).float()
