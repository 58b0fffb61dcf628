"""Log-ratio from the densities of a sampled trajectory's steps.

Axes: B groups, K candidates, D the axes of one sample.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.diffusion.samplers import DDIM
from penchant.protocols import Denoiser, Domain, Evidence, Groups, Models, StepBatch
from penchant.randomness import Randomness
from penchant.slots.ratios.denoising import flat_condition


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stepwise:
    """Log-density of each sampled step under policy and reference (mean over elements).

    Denoising is read as a decision process: the state is x_t, the action x_{t'}. Stored actions are scored
    again under both models; the same sampler must have made them.

    Attributes:
        sampler: Steps, noise and guidance, both of the rollout and of this estimate.

    Source:
        Black et al. 2023, arXiv:2305.13301; Yang et al. 2023, arXiv:2311.13231, eq. 14.
    """

    domain: ClassVar[Domain] = Domain.DIFFUSION
    provides: ClassVar[frozenset[Evidence]] = frozenset(
        {Evidence.RATIO, Evidence.LIKELIHOOD, Evidence.NOISE_LEVEL}
    )

    sampler: DDIM = field(default_factory=DDIM)

    def __call__(self, models: Models, batch: StepBatch, draws: Randomness) -> Groups:
        """Log policy and log reference of every candidate."""
        candidates = batch.state.shape[1]
        process = models.policy.process

        def log_density(model: Denoiser) -> Float[Tensor, "B K"]:
            state, action = batch.state.flatten(0, 1), batch.action.flatten(0, 1)
            timestep = batch.timestep.repeat_interleave(candidates)
            next_timestep = batch.next_timestep.repeat_interleave(candidates)
            output = self.sampler.predict(
                model,
                state,
                timestep,
                flat_condition(batch.condition, candidates),
                flat_condition(batch.unconditional, candidates),
            )
            step = self.sampler.transition(process, output, state, timestep, next_timestep)
            return step.log_density(action).unflatten(0, batch.state.shape[:2])

        log_policy = log_density(models.policy)
        log_reference = None
        if models.reference is not None:
            with torch.no_grad():
                log_reference = log_density(models.reference)
        return Groups(
            log_policy=log_policy,
            log_reference=log_reference,
            score=batch.score,
            valid=batch.valid,
            log_snr=process.log_snr(batch.timestep),
            time=process.time(batch.timestep),
        )
