"""Samplers whose every step has a known log-density.  Axes: N samples, S steps, D axes of one sample."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.diffusion.schedule import VariancePreserving
from penchant.numerics import at_least_float32, mean_over_elements
from penchant.protocols import Condition, Denoiser


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """Gaussian policy of one denoising step: x_{t'} ~ N(mean, deviation^2)."""

    mean: Float[Tensor, " N *D"]
    deviation: Float[Tensor, " N"]

    def sample(self, noise: Float[Tensor, " N *D"]) -> Float[Tensor, " N *D"]:
        """The next state for a given standard normal draw."""
        return self.mean + _rows(self.deviation, self.mean) * noise

    def log_density(self, action: Float[Tensor, " N *D"]) -> Float[Tensor, " N"]:
        """Log-density of the action per element (MEAN over elements), in nats.

        The sum would be the true log-density; published settings (clip 1e-4, beta 0.1) belong to the mean.

        Source:
            Black et al. 2023, arXiv:2305.13301; the reduction as in its released code.
        """
        deviation = _rows(self.deviation, self.mean)
        action = at_least_float32(action).detach()
        log = (
            -((action - self.mean) ** 2) / (2 * deviation**2) - deviation.log() - 0.5 * math.log(2 * math.pi)
        )
        return mean_over_elements(log)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DDIM:
    """Stochastic DDIM: timesteps and the transition of each.

    Attributes:
        num_steps: Denoising steps; in [1, T).
        eta: Share of the ancestral noise; > 0, because a deterministic step has no density.
        guidance: Scale of classifier-free guidance; 1 is unguided.

    Source:
        Song et al. 2020, arXiv:2010.02502, eq. 12 and 16.
    """

    num_steps: int = 20
    eta: float = 1.0
    guidance: float = 5.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {self.num_steps}")
        if not self.eta > 0:
            raise ValueError(f"eta must be > 0 (a deterministic step has no density), got {self.eta}")

    def timesteps(self, num_timesteps: int) -> list[tuple[int, int]]:
        """The steps (t, t'), from noise to data; leading spacing, offset 1, the last t' clamped to 0."""
        if self.num_steps >= num_timesteps:
            raise ValueError(
                f"num_steps must be < {num_timesteps}, the number of timesteps, got {self.num_steps}"
            )
        stride = num_timesteps // self.num_steps
        starts = [index * stride + 1 for index in reversed(range(self.num_steps))]
        return [(t, max(t - stride, 0)) for t in starts]

    def transition(
        self,
        process: VariancePreserving,
        output: Float[Tensor, " N *D"],
        state: Float[Tensor, " N *D"],
        timestep: Int[Tensor, " N"],
        next_timestep: Int[Tensor, " N"],
    ) -> Transition:
        """Gaussian of x_{t'} given x_t and the network's output there; float32 or better."""
        state, output = at_least_float32(state), at_least_float32(output)
        clean, noise = process.clean_and_noise(output, state, timestep)
        alpha, alpha_next = process.alpha(timestep), process.alpha(next_timestep)
        variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
        deviation = self.eta * variance.sqrt()
        direction = (1 - alpha_next - deviation**2).clamp(min=0).sqrt()
        mean = _rows(alpha_next.sqrt(), clean) * clean + _rows(direction, clean) * noise
        return Transition(mean=mean, deviation=deviation.to(mean.dtype))

    def predict(
        self,
        denoiser: Denoiser,
        state: Float[Tensor, " N *D"],
        timestep: Int[Tensor, " N"],
        condition: Condition,
        unconditional: Condition,
    ) -> Float[Tensor, " N *D"]:
        """Classifier-free-guided output, both halves in one forward; fully differentiable."""
        if self.guidance == 1:
            return at_least_float32(denoiser(state, timestep, condition))
        both = {name: torch.cat([condition[name], unconditional[name]]) for name in condition}
        doubled = denoiser(torch.cat([state, state]), torch.cat([timestep, timestep]), both)
        guided, unguided = at_least_float32(doubled).chunk(2)
        return unguided + self.guidance * (guided - unguided)


def _rows(values: Float[Tensor, " N"], like: Float[Tensor, " N *D"]) -> Tensor:
    """One number per sample, shaped to broadcast over the sample."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
