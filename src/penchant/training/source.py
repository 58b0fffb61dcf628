"""Where batches come from: a pure function of the step, so that a run can be resumed anywhere.

Axes: N examples, U prompts, F mirrored variants (1 or 2), K candidates, D = C H W of a latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from penchant.errors import DataError
from penchant.protocols import Batch, LatentBatch
from penchant.randomness import Randomness


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatch:
    """What one optimizer step sees.

    Attributes:
        micro: This process's share, in the pieces that go through the network at once.
        draws: Random draws of this pass over the data.
        epoch: Pass over the data, from 0.
        size: Groups over all pieces and processes.
        counted: What this process counted for the log, by the name of its metric.
    """

    micro: tuple[Batch, ...]
    draws: Randomness
    epoch: int
    size: int
    counted: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """Gives the batch of a step; `fit()` cannot tell stored data from a policy that is sampled."""

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExamples:
    """Examples whose images and prompts went through VAE and text encoder once.

    Attributes:
        ids: Stable name of each example.
        mean: Mean of the latent posterior, best candidate first.
        deviation: Its standard deviation.
        prompt: Row of each example's prompt in `conditions`; row 0 is the empty prompt.
        conditions: Condition of each distinct prompt, leading axis U.
        image_conditions: What the model is told of each image beside its prompt, leading axes N F K.
        score: As in Groups.
        valid: As in Groups.
    """

    ids: tuple[str, ...]
    mean: Float[Tensor, "N F K *D"]
    deviation: Float[Tensor, "N F K *D"]
    prompt: Sequence[int]
    conditions: Mapping[str, Tensor]
    score: Float[Tensor, "N K"] | None = None
    valid: Bool[Tensor, "N K"] | None = None
    image_conditions: Mapping[str, Tensor] = field(default_factory=dict)

    def batch(self, rows: Sequence[int], draws: Randomness, *, prompt_dropout: float = 0.0) -> LatentBatch:
        """Fresh latents from the posterior, one mirror and one prompt dropout per group.

        Args:
            rows: Which examples.
            draws: Random draws of this pass.
            prompt_dropout: Chance that a group sees the empty prompt.
        """
        ids = tuple(self.ids[row] for row in rows)
        _, variants, candidates, *sample = self.mean.shape
        variant = (draws.uniform(ids, "mirror") * variants).long()
        index = torch.tensor(rows)
        mean, deviation = self.mean[index, variant], self.deviation[index, variant]
        keys = [f"{name}/{k}" for name in ids for k in range(candidates)]
        noise = draws.normal(keys, sample, "latent").unflatten(0, (len(ids), candidates))
        kept = (draws.uniform(ids, "prompt") >= prompt_dropout).long()
        prompt = torch.tensor([self.prompt[row] for row in rows]) * kept
        return LatentBatch(
            ids=ids,
            latents=mean + deviation * noise,
            condition={
                **{name: table[prompt].unsqueeze(1) for name, table in self.conditions.items()},
                **{name: table[index, variant] for name, table in self.image_conditions.items()},
            },
            score=None if self.score is None else self.score[index],
            valid=None if self.valid is None else self.valid[index],
        )


@final
class StoredSource:
    """Batches of stored examples: a keyed order per epoch, the incomplete last batch left out.

    Args:
        examples: The encoded data.
        batch_size: Groups per optimizer step, over all processes and pieces.
        micro_batch_size: Groups that go through the network at once, per process.
        prompt_dropout: Chance that a group sees the empty prompt.
        seed: Seed of the run.
        process: Number of this process.
        num_processes: How many share the batch.
    """

    def __init__(
        self,
        examples: EncodedExamples,
        *,
        batch_size: int,
        micro_batch_size: int,
        prompt_dropout: float,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        if len(examples.ids) < batch_size:
            raise DataError(
                f"training.batch_size: the training split has {len(examples.ids)} usable groups, fewer than "
                f"one batch of {batch_size}. Give more data or a smaller batch_size."
            )
        self.examples, self.seed, self.prompt_dropout = examples, seed, prompt_dropout
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.process, self.num_processes = process, num_processes
        self.steps_per_epoch = len(examples.ids) // batch_size
        self._order = lru_cache(maxsize=2)(self._order_of)

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        draws = Randomness(run=self.seed, epoch=epoch)
        order = self._order(epoch)
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        share = rows[self.process :: self.num_processes]
        pieces = [share[i : i + self.micro_batch_size] for i in range(0, len(share), self.micro_batch_size)]
        micro = tuple(
            self.examples.batch(piece, draws, prompt_dropout=self.prompt_dropout) for piece in pieces
        )
        return GlobalBatch(micro=micro, draws=draws, epoch=epoch, size=len(rows))

    def _order_of(self, epoch: int) -> list[int]:
        return Randomness(run=self.seed, epoch=epoch).permutation(len(self.examples.ids), "order")
