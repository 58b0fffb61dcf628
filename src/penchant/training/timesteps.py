"""How the timesteps of one step are drawn: laws of their quantiles that leave the mean loss as it is.

A timestep is the value of the model's own law at a quantile, which is uniform in [0, 1). These laws draw the
quantiles of a batch together, or draw some more often and weigh their loss less. The mean loss of a batch is
then still that of independent draws, with less noise.

Axes: B groups of one piece of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.protocols import Batch, LatentBatch, NoiseProcess
from penchant.randomness import Randomness
from penchant.training.loop import Record
from penchant.training.source import GlobalBatch, Source


@final
class Stratified:
    """One quantile in each of as many equal parts of [0, 1) as the global batch has groups."""

    def __call__(
        self, ids: Sequence[str], places: Sequence[int], size: int, draws: Randomness, step: int
    ) -> tuple[Float[Tensor, " B"], None]:
        """Quantiles; the order of the data is random, so each group may get any part."""
        return (torch.tensor(places) + draws.uniform(ids, "timestep")) / size, None


@final
class Antithetic:
    """Quantiles in mirrored pairs, q and 1 - q, of neighbours in the global batch."""

    def __call__(
        self, ids: Sequence[str], places: Sequence[int], size: int, draws: Randomness, step: int
    ) -> tuple[Float[Tensor, " B"], None]:
        """Quantiles; the last group of an odd batch stays alone."""
        quantile = draws.uniform([f"step {step}, two {place // 2}" for place in places], "timestep")
        mirrored = torch.tensor([place % 2 == 1 for place in places])
        return torch.where(mirrored, 1 - quantile, quantile).clamp(max=_BELOW_ONE), None


@final
class Importance:
    """Law that learns: quantiles where the gradient factor has been large lately, weighted to undo it.

    The noise scale has four quarters, those of the logged metrics. A quarter is drawn in proportion to its
    share of the law times (floor + (1 - floor) * its running gradient factor / the mean one), so no weight
    exceeds 1 / floor.

    Args:
        process: Its law gives the share of each quarter.
        floor: Part of the draws that follows the law as it is; in (0, 1].
        decay: Of the running means, per step; in [0, 1).
    """

    def __init__(self, process: NoiseProcess, *, floor: float = 0.2, decay: float = 0.95) -> None:
        self.floor, self.decay = floor, decay
        self.factors = torch.full((_QUARTERS,), 0.5, dtype=torch.float64)
        grid = (torch.arange(_GRID) + 0.5) / _GRID
        quarter = (process.time(process.timestep(grid)) * _QUARTERS).long().clamp(0, _QUARTERS - 1)
        self.share = torch.bincount(quarter, minlength=_QUARTERS).double() / _GRID

    def __call__(
        self, ids: Sequence[str], places: Sequence[int], size: int, draws: Randomness, step: int
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Quantiles and weights; the mean weight is 1."""
        mean = (self.share * self.factors).sum()
        chance = self.share * (self.floor + (1 - self.floor) * self.factors / mean)
        ends, law_ends = chance.cumsum(0), self.share.cumsum(0)
        drawn = draws.uniform(ids, "timestep").double()
        quarter = torch.searchsorted(ends, drawn, right=True).clamp(max=int(chance.nonzero().max()))
        inside = (drawn - (ends - chance)[quarter]) / chance[quarter]
        quantile = (law_ends - self.share)[quarter] + inside * self.share[quarter]
        weight = self.share[quarter] / chance[quarter]
        return quantile.float().clamp(0, _BELOW_ONE), weight.float()

    def follow(self, record: Record) -> None:
        """Follow the gradient factor of each quarter that the step has seen."""
        for quarter in range(_QUARTERS):
            seen = record.metrics.get(f"gradient/factor/t{quarter}")
            if seen is not None:
                self.factors[quarter] = self.decay * self.factors[quarter] + (1 - self.decay) * seen

    def state(self) -> list[float]:
        """The running means, for a checkpoint."""
        return self.factors.tolist()

    def load(self, stored: Sequence[float]) -> None:
        """Put stored running means back."""
        self.factors = torch.tensor(stored, dtype=torch.float64)


class QuantileLaw(Protocol):
    """Draws the quantiles of a piece of a batch."""

    def __call__(
        self, ids: Sequence[str], places: Sequence[int], size: int, draws: Randomness, step: int
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"] | None]:
        """Quantiles in [0, 1), and weights if some are drawn more often.

        Args:
            ids: Names of the groups.
            places: Their numbers in the global batch, in [0, size).
            size: Groups of the global batch.
            draws: Random draws of this pass over the data.
            step: Optimizer step.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class DrawnTimesteps:
    """A source whose batches bring their timesteps.

    Attributes:
        source: Gives the batches of stored data.
        law: Draws their timesteps.
    """

    source: Source
    law: QuantileLaw

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        batch = self.source(step)
        pieces: list[Batch] = []
        for piece, places in zip(batch.micro, batch.places, strict=True):
            assert isinstance(piece, LatentBatch)
            quantile, importance = self.law(piece.ids, places, batch.size, batch.draws, step)
            pieces.append(replace(piece, quantile=quantile, importance=importance))
        return replace(batch, micro=tuple(pieces))


_QUARTERS: Final = 4
_GRID: Final = 2**14
_BELOW_ONE: Final = 1 - 2.0**-24
