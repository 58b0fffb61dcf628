"""A small policy and a batch for every kind of ratio, for the laws over all methods."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from penchant.diffusion.schedule import VariancePreserving, scaled_linear_alphas
from penchant.protocols import LatentBatch, Models, StepBatch, TokenBatch
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.ratios.stepwise import Stepwise
from penchant.slots.ratios.tokens import Tokens

PROCESS = VariancePreserving(
    alphas_cumprod=scaled_linear_alphas(1000, 0.00085, 0.012), prediction="v_prediction"
)
LATENT, CONDITION, VOCABULARY = (2, 3, 3), 4, 11


class TinyDenoiser(nn.Module):
    """A denoiser whose output depends on all of its inputs."""

    process = PROCESS

    def __init__(self) -> None:
        super().__init__()
        size = 2 * 3 * 3
        self.mix = nn.Linear(size + CONDITION + 1, 24)
        self.out = nn.Linear(24, size)

    def forward(self, noisy, timestep, condition):
        dtype = self.mix.weight.dtype
        inputs = [noisy.flatten(1), condition["embedding"], timestep[:, None] / 1000]
        hidden = torch.tanh(self.mix(torch.cat([x.to(dtype) for x in inputs], 1)))
        return self.out(hidden).reshape(noisy.shape)


class TinyLanguageModel(nn.Module):
    """A causal model: the next token depends on this one and on the mean of those before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.out = nn.Linear(8, VOCABULARY)

    def forward(self, tokens, attended):
        embedded = self.embedding(tokens) * attended.unsqueeze(-1)
        steps = torch.arange(1, tokens.shape[1] + 1, dtype=embedded.dtype)[None, :, None]
        return self.out(torch.tanh(embedded + embedded.cumsum(1) / steps))


@dataclass
class Case:
    """A method with everything that one step of it takes."""

    method: Method
    policy: Any
    batch: Any

    def models(self, *, moved: bool = True) -> Models:
        """Policy and a reference that is another model (moved) or an equal copy."""
        reference = copy.deepcopy(self.policy)
        if moved:
            generator = torch.Generator().manual_seed(5)
            for parameter in reference.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.data += 0.02 * noise.to(parameter.dtype)
        return Models(policy=self.policy, reference=reference)


def case(method: Method, *, groups: int = 6, seed: int = 0) -> Case:
    """Build the case of a method, from its ratio and data shape."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    candidates = {Shape.PAIR: 2, Shape.UNARY: 1, Shape.RANKED: 4}[method.shape]
    ids = tuple(f"example-{index}" for index in range(groups))
    score = _score(method.shape, groups, candidates, generator)
    if isinstance(method.ratio, Tokens):
        return Case(method, TinyLanguageModel(), _tokens(ids, candidates, score, generator))
    condition = {"embedding": torch.randn((groups, 1, CONDITION), generator=generator)}
    latents = torch.randn((groups, candidates, *LATENT), generator=generator)
    if isinstance(method.ratio, Stepwise):
        batch = _steps(method.ratio, ids, latents, condition, score, generator)
        return Case(method, TinyDenoiser(), batch)
    batch = LatentBatch(ids=ids, latents=latents, condition=condition, score=score)
    return Case(method, TinyDenoiser(), batch)


def _score(shape, groups, candidates, generator):
    if shape is Shape.UNARY:
        return torch.tensor([1.0, -1.0, 1.0]).repeat(groups)[:groups, None]
    if shape is Shape.RANKED:
        return torch.rand((groups, candidates), generator=generator).sort(1, descending=True).values
    return None


def _tokens(ids, candidates, score, generator):
    shape = (len(ids), candidates, 7)
    completion = torch.zeros(shape, dtype=torch.bool)
    completion[..., 3:] = True
    attended = torch.ones(shape, dtype=torch.bool)
    attended[:, -1, 6] = completion[:, -1, 6] = False
    tokens = torch.randint(0, VOCABULARY, shape, generator=generator)
    tokens[..., :3] = tokens[:, :1, :3]
    return TokenBatch(ids=ids, tokens=tokens, attended=attended, completion=completion, score=score)


def _steps(ratio, ids, state, condition, score, generator):
    steps = ratio.sampler.timesteps(PROCESS.num_timesteps)
    chosen = [steps[index % len(steps)] for index in range(len(ids))]
    near = state + 0.3 * torch.randn(state.shape, generator=generator)
    return StepBatch(
        ids=ids,
        state=state,
        action=near,
        timestep=torch.tensor([t for t, _ in chosen]),
        next_timestep=torch.tensor([t for _, t in chosen]),
        condition=condition,
        unconditional={name: torch.zeros_like(value) for name, value in condition.items()},
        score=score,
    )


def select(batch: Any, rows: list[int]) -> Any:
    """Some groups of a batch, in the given order."""
    changes: dict[str, Any] = {"ids": tuple(batch.ids[row] for row in rows)}
    for name in batch.__dataclass_fields__:
        value = getattr(batch, name)
        if isinstance(value, torch.Tensor):
            changes[name] = value[rows]
        elif isinstance(value, dict):
            changes[name] = {key: tensor[rows] for key, tensor in value.items()}
    return replace(batch, **changes)


def draws() -> Randomness:
    """The random draws of all cases."""
    return Randomness(run=1)
