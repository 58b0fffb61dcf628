"""Where batches come from: a pure function of the step, so that a run can be resumed anywhere.

Axes: N examples, F variants (windows, mirrored or not), K candidates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.errors import DataError
from penchant.protocols import Batch, LatentBatch
from penchant.randomness import Randomness
from penchant.training.table import Table


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatch:
    """What one optimizer step sees.

    Attributes:
        micro: This process's share, in the pieces that go through the network at once.
        draws: Random draws of this pass over the data.
        epoch: Pass over the data, from 0.
        size: Groups over all pieces and processes.
        places: Number of each group of each piece among these, in [0, size); for stored data.
        counted: What this process counted for the log, by the name of its metric.
    """

    micro: tuple[Batch, ...]
    draws: Randomness
    epoch: int
    size: int
    places: tuple[tuple[int, ...], ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """Gives the batch of a step; `fit()` cannot tell stored data from a policy that is sampled."""

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        ...


def repeated_draws(number: int) -> Randomness:
    """The random draws of that number, the same in every run."""
    return Randomness(run=0, epoch=number)


@final
@dataclass(frozen=True, slots=True)
class ReferenceErrors:
    """Denoising errors of the reference, of each example at each of the repeated draws.

    Attributes:
        table: Rows with the errors of all candidates of an example.
        row_of: Row of each draw and example, by the number of the draw and that of the example.
    """

    table: Table
    row_of: Mapping[tuple[int, int], int]

    def of(self, rows: Sequence[int], draw: int) -> Float[Tensor, "B K"]:
        """The errors of some examples at one draw."""
        return self.table.take(self.row_of[draw, row] for row in rows)["error"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExamples:
    """Examples whose images and prompts went through VAE and text encoder once.

    Attributes:
        ids: Stable name of each example.
        contents: Names the images of each example and their order, whatever else is in the data.
        latents: `mean` and standard `deviation` of the latent posterior of each image, beside what the model
            is told of the image; images of different buckets differ in shape.
        image: Row of each candidate in each variant, best candidate first.
        conditions: Condition of each distinct prompt; row 0 is the empty prompt.
        prompt: Row of each example's prompt.
        score: As in Groups.
        valid: As in Groups.
        reference_errors: What the reference says of them at the repeated draws; None if it is asked.
    """

    ids: tuple[str, ...]
    contents: tuple[str, ...]
    latents: Table
    image: Int[Tensor, "N F K"]
    conditions: Table
    prompt: Sequence[int]
    score: Float[Tensor, "N K"] | None = None
    valid: Bool[Tensor, "N K"] | None = None
    reference_errors: ReferenceErrors | None = None

    def batch(self, rows: Sequence[int], draws: Randomness, *, prompt_dropout: float = 0.0) -> LatentBatch:
        """Fresh latents from the posterior, one variant and one prompt dropout per group.

        Args:
            rows: Which examples; all of one bucket, as `pieces` gives them.
            draws: Random draws of this pass.
            prompt_dropout: Chance that a group sees the empty prompt.
        """
        ids = tuple(self.ids[row] for row in rows)
        _, variants, candidates = self.image.shape
        variant = (draws.uniform(ids, "mirror") * variants).long()
        index = torch.tensor(rows)
        found = self.latents.take(self.image[index, variant].flatten().tolist())
        images = {name: value.unflatten(0, (len(ids), candidates)) for name, value in found.items()}
        mean, deviation = images.pop("mean"), images.pop("deviation")
        keys = [f"{name}/{k}" for name in ids for k in range(candidates)]
        noise = draws.normal(keys, mean.shape[2:], "latent").unflatten(0, (len(ids), candidates))
        kept = draws.uniform(ids, "prompt") >= prompt_dropout
        prompts = [self.prompt[row] if shown else 0 for row, shown in zip(rows, kept, strict=True)]
        told = {name: value.unsqueeze(1) for name, value in self.conditions.take(prompts).items()}
        return LatentBatch(
            ids=ids,
            latents=mean + deviation * noise,
            condition={**told, **images},
            score=None if self.score is None else self.score[index],
            valid=None if self.valid is None else self.valid[index],
            reference_error=(
                None if self.reference_errors is None else self.reference_errors.of(rows, draws.epoch)
            ),
        )

    def pieces(self, rows: Sequence[int], at_once: int) -> list[list[int]]:
        """Rows in pieces of one bucket each, in order of its first row, of `at_once` rows at most."""
        buckets: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            shape = self.latents.shape(int(self.image[row, 0, 0]), "mean")
            buckets.setdefault(tuple(shape), []).append(row)
        return [
            bucket[start : start + at_once]
            for bucket in buckets.values()
            for start in range(0, len(bucket), at_once)
        ]


def require_a_batch(num_groups: int, batch_size: int) -> None:
    """Refuse data that does not fill one batch."""
    if num_groups < batch_size:
        raise DataError(
            f"training.batch_size: the training split has {num_groups} usable groups, fewer than one batch "
            f"of {batch_size}. Give more data or a smaller batch_size."
        )


@final
class StoredSource:
    """Batches of stored examples: a keyed order per epoch, the incomplete last batch left out.

    Buckets change neither the order nor what a step sees; the groups of a step that share a bucket go through
    the network together. Every process cuts its share into the same number of pieces, so that all make the
    same number of forward passes.

    Args:
        examples: The encoded data.
        batch_size: Groups per optimizer step, over all processes and pieces.
        micro_batch_size: Groups that go through the network at once, per process, at most.
        prompt_dropout: Chance that a group sees the empty prompt.
        seed: Seed of the run.
        num_draws: The passes over the data take turns with so many repeated draws; None draws anew in each.
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
        num_draws: int | None = None,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        require_a_batch(len(examples.ids), batch_size)
        self.examples, self.seed, self.prompt_dropout = examples, seed, prompt_dropout
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.num_draws, self.process, self.num_processes = num_draws, process, num_processes
        self.steps_per_epoch = len(examples.ids) // batch_size
        self._order = lru_cache(maxsize=2)(self._order_of)

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        epoch, rows = self._rows(step)
        draws = Randomness(run=self.seed, epoch=epoch)
        if self.num_draws is not None:
            draws = repeated_draws(epoch % self.num_draws)
        shares = [
            self.examples.pieces(rows[process :: self.num_processes], self.micro_batch_size)
            for process in range(self.num_processes)
        ]
        pieces = _cut_into(shares[self.process], max(len(share) for share in shares))
        micro = tuple(
            self.examples.batch(piece, draws, prompt_dropout=self.prompt_dropout) for piece in pieces
        )
        place_of = {row: place for place, row in enumerate(rows)}
        places = tuple(tuple(place_of[row] for row in piece) for piece in pieces)
        return GlobalBatch(micro=micro, draws=draws, epoch=epoch, size=len(rows), places=places)

    def seen(self, steps: int) -> Iterator[tuple[int, Sequence[int]]]:
        """Number of the repeated draw and rows of the examples of each of the first steps."""
        assert self.num_draws is not None
        for step in range(steps):
            epoch, rows = self._rows(step)
            yield epoch % self.num_draws, rows

    def _rows(self, step: int) -> tuple[int, Sequence[int]]:
        """Epoch of a step, and the rows of its examples."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch, self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _order_of(self, epoch: int) -> list[int]:
        return Randomness(run=self.seed, epoch=epoch).permutation(len(self.examples.ids), "order")


def _cut_into(pieces: list[list[int]], number: int) -> list[list[int]]:
    """The same rows in that many pieces: the longest is halved until there are enough."""
    while len(pieces) < number:
        longest = max(range(len(pieces)), key=lambda at: len(pieces[at]))
        piece = pieces[longest]
        pieces = [
            *pieces[:longest],
            piece[: len(piece) // 2],
            piece[len(piece) // 2 :],
            *pieces[longest + 1 :],
        ]
    return pieces
