"""Log-ratio from denoising errors at one noise level.

Axes: B groups, K candidates, D = C H W of a latent, N = B * K.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.errors import CompositionError
from penchant.numerics import at_least_float32, mean_over_elements, require_positive
from penchant.protocols import (
    Condition,
    Denoiser,
    Domain,
    Evidence,
    Groups,
    LatentBatch,
    Models,
    Reduction,
)
from penchant.randomness import Randomness

_PROVIDES = frozenset({Evidence.RATIO, Evidence.ERROR, Evidence.NOISE_LEVEL})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    r"""Scaled drop of the denoising error from reference to policy (the ELBO's estimate of the log-ratio).

    log_policy = -scale * err_theta,  log_reference = -scale * err_ref,
    err_m = reduce over C H W of (prediction_m(x_t, t, c) - target)^2

    t is one draw per group, uniform in the quantiles of the process's law. Policy and reference see the same
    x_t bit for bit, and both errors are reduced in float32.

    Attributes:
        reduction: `mean` over the elements of a latent (all published code), or `sum` (the papers' norm). A
            beta belongs to its reduction: on n elements, beta on means equals beta / n on sums.
        scale: The 1/2 of the Gaussian KL; ports that drop it use 1.
        shared_noise: One noise for all candidates of a group (lower variance), or one for each.

    Source:
        Wallace et al. 2023, arXiv:2311.12908, eq. 14.
    """

    domain: ClassVar[Domain] = Domain.DIFFUSION
    provides: ClassVar[frozenset[Evidence]] = _PROVIDES

    reduction: Reduction = "mean"
    scale: float = 0.5
    shared_noise: bool = True

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)

    def __call__(self, models: Models, batch: LatentBatch, draws: Randomness) -> Groups:
        """Log policy and log reference of every candidate."""
        point = NoisyPoint.draw(models.policy, batch, draws, shared_noise=self.shared_noise)
        target = models.policy.process.target(point.clean, point.noise, point.timestep)

        def error(model: Denoiser) -> Float[Tensor, "B K"]:
            output = model(point.noisy, point.timestep, point.condition)
            squared = (at_least_float32(output) - at_least_float32(target)) ** 2
            return point.grouped(_reduce(squared, self.reduction))

        summed = point.elements if self.reduction == "sum" else 1
        policy_error = error(models.policy)
        reference_error = None if batch.reference_error is None else summed * batch.reference_error
        if models.reference is not None:
            with torch.no_grad():
                reference_error = error(models.reference)
        return Groups(
            log_policy=-self.scale * policy_error,
            log_reference=None if reference_error is None else -self.scale * reference_error,
            score=batch.score,
            valid=batch.valid,
            error=policy_error / summed,
            error_reference=None if reference_error is None else reference_error / summed,
            log_snr=point.log_snr,
            time=point.time,
            importance=batch.importance,
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFromReference:
    r"""Form L2 of Diffusion-DPO: the policy's distance from the reference, EXPERIMENTAL.

    log_ratio = +-scale * drift,  drift = reduce over C H W of (prediction_theta - prediction_ref)^2
    log_policy = -scale * err_theta,  log_reference = log_policy - log_ratio

    The derivation in the paper's supplement leads to the plus sign, its printed last line has the minus; the
    two are inconsistent and no official code exists (UNVERIFIED). The gradient is exactly 0 at
    policy = reference, so training cannot start from the reference without something else that moves it,
    such as the term `winner-likelihood`: that one reads the policy's own denoising error, as with Denoising.

    Attributes:
        sign: `derived_plus` rewards moving away from the reference on winners; `printed_minus` the opposite.
        reduction: As in Denoising.
        scale: As in Denoising.
        shared_noise: As in Denoising.

    Source:
        Wallace et al. 2023, arXiv:2311.12908, supplement S2.
    """

    domain: ClassVar[Domain] = Domain.DIFFUSION
    provides: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RATIO, Evidence.NOISE_LEVEL})
    experimental: ClassVar[str] = (
        "form L2: its sign is inconsistent in the source, and it is stuck at the reference"
    )

    sign: Literal["derived_plus", "printed_minus"] = "derived_plus"
    reduction: Reduction = "mean"
    scale: float = 0.5
    shared_noise: bool = True

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)

    def __call__(self, models: Models, batch: LatentBatch, draws: Randomness) -> Groups:
        """Log policy and log reference of every candidate."""
        point = NoisyPoint.draw(models.policy, batch, draws, shared_noise=self.shared_noise)
        target = at_least_float32(models.policy.process.target(point.clean, point.noise, point.timestep))
        if models.reference is None:
            raise CompositionError("DriftFromReference: needs a reference model, got none.")
        with torch.no_grad():
            anchor = at_least_float32(models.reference(point.noisy, point.timestep, point.condition))
        output = at_least_float32(models.policy(point.noisy, point.timestep, point.condition))
        drift = point.grouped(_reduce((output - anchor) ** 2, self.reduction))
        summed = point.elements if self.reduction == "sum" else 1
        error = point.grouped(_reduce((output - target) ** 2, self.reduction))
        log_policy = -self.scale * error
        sign = 1.0 if self.sign == "derived_plus" else -1.0
        return Groups(
            log_policy=log_policy,
            log_reference=log_policy - sign * self.scale * drift,
            score=batch.score,
            valid=batch.valid,
            error=error / summed,
            error_reference=point.grouped(mean_over_elements((anchor - target) ** 2)),
            log_snr=point.log_snr,
            time=point.time,
            importance=batch.importance,
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyPoint:
    """The noised inputs of one batch, flattened to N = B * K rows, as policy and reference both see them."""

    shape: tuple[int, int]
    clean: Float[Tensor, " N *D"]
    noise: Float[Tensor, " N *D"]
    noisy: Float[Tensor, " N *D"]
    timestep: Tensor
    condition: Condition
    log_snr: Float[Tensor, " B"]
    time: Float[Tensor, " B"]

    @property
    def elements(self) -> int:
        """Numbers in the latent of one candidate."""
        return self.clean[0].numel()

    @classmethod
    def draw(
        cls, policy: Denoiser, batch: LatentBatch, draws: Randomness, *, shared_noise: bool
    ) -> "NoisyPoint":
        """Draw one timestep per group, unless the batch brings it, and its noise; add the noise."""
        groups, candidates = batch.latents.shape[:2]
        sample_shape, device = batch.latents.shape[2:], batch.latents.device
        quantile = draws.uniform(batch.ids, "timestep") if batch.quantile is None else batch.quantile.cpu()
        timestep = policy.process.timestep(quantile).to(device)
        if shared_noise:
            noise = draws.normal(batch.ids, sample_shape, "noise").unsqueeze(1)
        else:
            keys = [f"{name}/{k}" for name in batch.ids for k in range(candidates)]
            noise = draws.normal(keys, sample_shape, "noise").unflatten(0, (groups, candidates))
        clean = at_least_float32(batch.latents).flatten(0, 1)
        noise = noise.to(device).expand_as(batch.latents).flatten(0, 1)
        rows = timestep.repeat_interleave(candidates)
        return cls(
            shape=(groups, candidates),
            clean=clean,
            noise=noise,
            noisy=policy.process.noised(clean, noise, rows),
            timestep=rows,
            condition=flat_condition(batch.condition, candidates),
            log_snr=policy.process.log_snr(timestep),
            time=policy.process.time(timestep),
        )

    def grouped(self, values: Float[Tensor, " N"]) -> Float[Tensor, "B K"]:
        """One number per row, back in groups."""
        return values.unflatten(0, self.shape)


def flat_condition(condition: Condition, candidates: int) -> Mapping[str, Tensor]:
    """Condition with leading axes B and K (or 1), as N = B * K rows."""
    return {
        name: value.expand(-1, candidates, *[-1] * (value.ndim - 2)).flatten(0, 1)
        for name, value in condition.items()
    }


def _reduce(squared: Float[Tensor, " N *D"], reduction: Reduction) -> Float[Tensor, " N"]:
    return mean_over_elements(squared) if reduction == "mean" else squared.flatten(1).sum(1)
