"""Rectified flow: straight lines from data to noise.  Axes: N samples, D axes of a sample.

x_s = (1 - s) x0 + s eps, the network predicts the velocity eps - x0, and its timestep is s times T.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.numerics import require_positive

_EDGE: Final = 2.0**-24
"""Quantiles are kept this far from 0 and 1, where a law may have no finite noise level."""


@runtime_checkable
class TimestepLaw(Protocol):
    """Law of the noise level in training, given by its quantiles."""

    def sigma(self, quantile: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Noise level at a quantile in (0, 1); increasing."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UniformLaw:
    """All noise levels alike."""

    def sigma(self, quantile: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Noise level at a quantile in (0, 1)."""
        return quantile


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LogitNormalLaw:
    """log(s / (1 - s)) is normal: the middle of the way is seen most.

    Attributes:
        mean: Mean of the logit; 0 is symmetric, above 0 noisier.
        deviation: Its standard deviation; > 0.

    Source:
        Esser et al. 2024, arXiv:2403.03206, section 3.1; mean 0, deviation 1 is their choice.
    """

    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        require_positive("deviation", self.deviation)

    def sigma(self, quantile: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Noise level at a quantile in (0, 1)."""
        return torch.sigmoid(self.mean + self.deviation * torch.special.ndtri(quantile))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RectifiedFlow:
    """x_s = (1 - s) x0 + s eps; the noise level of training follows a law and is then shifted.

    Timesteps are real numbers s T, as the networks take them.

    Attributes:
        law: Law of the noise level before it is shifted.
        shift: Moves noise levels up, s -> shift s / (1 + (shift - 1) s), as the model's own sampler does;
            > 0, 1 leaves them.
        num_timesteps: T.

    Source:
        Liu et al. 2022, arXiv:2209.03003; shift: Esser et al. 2024, arXiv:2403.03206, eq. 23.
    """

    law: TimestepLaw
    shift: float = 1.0
    num_timesteps: int = 1000

    def __post_init__(self) -> None:
        require_positive("shift", self.shift)

    def timestep(self, quantile: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Timestep at a quantile in [0, 1) of the shifted law; in (0, T)."""
        sigma = self.law.sigma(quantile.double().clamp(_EDGE, 1 - _EDGE))
        shifted = self.shift * sigma / (1 + (self.shift - 1) * sigma)
        return (shifted * self.num_timesteps).float()

    def time(self, timestep: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Noise level s."""
        return timestep / self.num_timesteps

    def log_snr(self, timestep: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """2 log((1 - s) / s); clamped to +-20."""
        return (-2 * torch.logit(timestep.double() / self.num_timesteps)).clamp(-20, 20).float()

    def noised(
        self, clean: Float[Tensor, " N *D"], noise: Float[Tensor, " N *D"], timestep: Float[Tensor, " N"]
    ) -> Float[Tensor, " N *D"]:
        """x_s."""
        sigma = (timestep.double() / self.num_timesteps).reshape(-1, *[1] * (clean.ndim - 1))
        return (1 - sigma).to(clean.dtype) * clean + sigma.to(clean.dtype) * noise

    def target(
        self, clean: Float[Tensor, " N *D"], noise: Float[Tensor, " N *D"], timestep: Float[Tensor, " N"]
    ) -> Float[Tensor, " N *D"]:
        """The velocity, eps - x0 at every noise level."""
        return noise - clean


def shift_for(
    num_tokens: int, *, base_tokens: int, max_tokens: int, base_shift: float, max_shift: float
) -> float:
    """Shift of a model whose sampler shifts by resolution: exp of a line in the number of image tokens.

    Args:
        num_tokens: Image tokens of the network.
        base_tokens: Number at which the logarithm of the shift is `base_shift`.
        max_tokens: Number at which it is `max_shift`.
        base_shift: Logarithm of the shift there.
        max_shift: Logarithm of the shift there.

    Source:
        The sampler that was published with FLUX.1.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (num_tokens - base_tokens))
