"""A data source that samples the current policy; the loop cannot tell it from a file.

Axes: B prompts, K = 2 candidates, S denoising steps, D = C H W of a latent.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.diffusion.samplers import DDIM
from penchant.diffusion.schedule import VariancePreserving
from penchant.protocols import Condition, Denoiser, Reward, StepBatch
from penchant.randomness import Randomness
from penchant.training.source import GlobalBatch


@final
class RolloutSource:
    """For each step: some prompts, two trajectories each from one initial noise, judged by a reward.

    Every denoising step of the pairs is one piece of the batch, so that memory does not grow with the number
    of steps; the optimizer moves once per batch. Column 0 is the image with the higher reward; equal rewards
    are a tie.

    Args:
        policy: The model in training.
        sampler: Must be the sampler of the method's ratio.
        prompts: Prompts to draw from, each with its row in `conditions`.
        conditions: Condition of each prompt, after row 0, the empty prompt.
        sample_shape: C, H, W of a latent.
        decode: Latents to images in [0, 1].
        reward: Judges the images.
        prompts_per_step: B, over all processes.
        seed: Seed of the run.
        device: Where the policy lives.
        process: Number of this process.
        num_processes: How many share the prompts.
    """

    def __init__(
        self,
        policy: Denoiser,
        sampler: DDIM,
        *,
        prompts: Sequence[str],
        conditions: Condition,
        sample_shape: Sequence[int],
        decode: Callable[[Tensor], Float[Tensor, "N 3 H W"]],
        reward: Reward,
        prompts_per_step: int,
        seed: int,
        device: torch.device,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        assert isinstance(policy.process, VariancePreserving)
        self.policy, self.sampler, self.prompts, self.conditions = policy, sampler, prompts, conditions
        self.sample_shape, self.decode, self.reward = tuple(sample_shape), decode, reward
        self.prompts_per_step, self.seed, self.device = prompts_per_step, seed, device
        self.process, self.num_processes = process, num_processes

    def __call__(self, step: int) -> GlobalBatch:
        """Sample the policy as it is now."""
        draws = Randomness(run=self.seed, epoch=step)
        order = draws.permutation(len(self.prompts), "prompts")
        chosen = [order[number % len(order)] for number in range(self.prompts_per_step)]
        numbered = list(enumerate(chosen))[self.process :: self.num_processes]
        ids = tuple(f"{number}/{self.prompts[row]}" for number, row in numbered)
        rows = torch.tensor([row + 1 for _, row in numbered])
        condition = {name: table[rows].to(self.device) for name, table in self.conditions.items()}
        empty = {
            name: table[:1].expand(len(ids), *table.shape[1:]).to(self.device)
            for name, table in self.conditions.items()
        }
        states = self._trajectories(ids, condition, empty, draws)
        images = self.decode(states[-1].flatten(0, 1))
        prompts = [self.prompts[row] for _, row in numbered for _ in range(2)]
        score = self.reward(images, prompts).reshape(-1, 2).to(self.device)
        score, best = torch.sort(score, dim=1, descending=True, stable=True)
        states = [_sorted(state, best) for state in states]
        micro = tuple(
            StepBatch(
                ids=ids,
                state=states[number],
                action=states[number + 1],
                timestep=torch.full((len(ids),), t, device=self.device),
                next_timestep=torch.full((len(ids),), t_next, device=self.device),
                condition={name: value.unsqueeze(1) for name, value in condition.items()},
                unconditional={name: value.unsqueeze(1) for name, value in empty.items()},
                score=score,
            )
            for number, (t, t_next) in enumerate(self._steps())
        )
        return GlobalBatch(micro=micro, draws=draws, epoch=step, size=self.prompts_per_step)

    def _steps(self) -> list[tuple[int, int]]:
        return self.sampler.timesteps(self.policy.process.num_timesteps)

    @torch.no_grad()
    def _trajectories(
        self, ids: Sequence[str], condition: Condition, empty: Condition, draws: Randomness
    ) -> list[Float[Tensor, "B 2 *D"]]:
        """The S + 1 states of every pair, from noise to data."""
        process = self.policy.process
        assert isinstance(process, VariancePreserving)
        doubled = {name: value.repeat_interleave(2, 0) for name, value in condition.items()}
        unconditional = {name: value.repeat_interleave(2, 0) for name, value in empty.items()}
        members = [f"{name}/{k}" for name in ids for k in range(2)]
        start = draws.normal(ids, self.sample_shape, "start").repeat_interleave(2, 0).to(self.device)
        states = [start]
        for number, (t, t_next) in enumerate(self._steps()):
            now = torch.full((len(members),), t, device=self.device)
            following = torch.full((len(members),), t_next, device=self.device)
            output = self.sampler.predict(self.policy, states[-1], now, doubled, unconditional)
            transition = self.sampler.transition(process, output, states[-1], now, following)
            noise = draws.normal(members, self.sample_shape, f"step {number}").to(self.device)
            states.append(transition.sample(noise))
        return [state.unflatten(0, (len(ids), 2)) for state in states]


def _sorted(state: Float[Tensor, "B 2 *D"], best: Tensor) -> Float[Tensor, "B 2 *D"]:
    index = best.reshape(*best.shape, *[1] * (state.ndim - 2)).expand_as(state)
    return state.gather(1, index)
