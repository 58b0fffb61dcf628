"""Noise schedules: signal, noise, SNR and timestep law.  Axes: N samples, T timesteps, D axes of a sample."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.diffusion.prediction import Prediction, clean_and_noise, target


def scaled_linear_alphas(num_timesteps: int, beta_start: float, beta_end: float) -> Float[Tensor, " T"]:
    """Cumulative alphas of the schedule of Stable Diffusion (betas linear in their square root), float64.

    Source:
        Rombach et al. 2022, arXiv:2112.10752.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def zero_terminal_snr(alphas_cumprod: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """The same schedule, stretched so that the last timestep is pure noise and the first as it was.

    sqrt(abar) is shifted to 0 at the end and scaled back to its value at the start.

    Source:
        Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    signal = alphas_cumprod.sqrt()
    first, last = signal[0], signal[-1]
    return ((signal - last) * first / (first - last)) ** 2


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VariancePreserving:
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, t uniform over the trained timesteps.

    Attributes:
        alphas_cumprod: abar_t, decreasing, in [0, 1].
        prediction: What the network predicts.
        trained: The timesteps that training sees, all alike; None for all integers in [0, T).
    """

    alphas_cumprod: Float[Tensor, " T"]
    prediction: Prediction
    trained: tuple[int, ...] | None = None

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def timestep(self, quantile: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The integer timestep at a quantile in [0, 1)."""
        number = self.num_timesteps if self.trained is None else len(self.trained)
        place = (quantile.double() * number).long().clamp(0, number - 1)
        return place if self.trained is None else torch.tensor(self.trained, device=place.device)[place]

    def time(self, timestep: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Timestep as a share of T; in [0, 1)."""
        return timestep.float() / self.num_timesteps

    def alpha(self, timestep: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Abar at each timestep, in float64, on the timestep's device."""
        return self.alphas_cumprod.to(timestep.device, torch.float64)[timestep]

    def log_snr(self, timestep: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """log(abar / (1 - abar)); clamped to +-20 where the schedule ends in pure noise."""
        alpha = self.alpha(timestep)
        return torch.log(alpha / (1 - alpha)).clamp(-20, 20).float()

    def noised(
        self, clean: Float[Tensor, " N *D"], noise: Float[Tensor, " N *D"], timestep: Int[Tensor, " N"]
    ) -> Float[Tensor, " N *D"]:
        """x_t."""
        signal, scale = self._scales(timestep, clean)
        return signal * clean + scale * noise

    def target(
        self, clean: Float[Tensor, " N *D"], noise: Float[Tensor, " N *D"], timestep: Int[Tensor, " N"]
    ) -> Float[Tensor, " N *D"]:
        """What the network should predict at x_t."""
        signal, scale = self._scales(timestep, clean)
        return target(self.prediction, clean, noise, signal, scale)

    def clean_and_noise(
        self, output: Float[Tensor, " N *D"], noisy: Float[Tensor, " N *D"], timestep: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """The network's estimates of x0 and eps."""
        signal, scale = self._scales(timestep, noisy)
        return clean_and_noise(self.prediction, output, noisy, signal, scale)

    def _scales(self, timestep: Int[Tensor, " N"], like: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alpha(timestep).reshape(-1, *[1] * (like.ndim - 1))
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)
