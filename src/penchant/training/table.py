"""Rows of named tensors, spread over shards that lie in memory or are mapped from files.

Axes: M rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from jaxtyping import Int
from torch import Size, Tensor

from penchant.protocols import Condition


class Shards(Protocol):
    """Tensors by name for each shard, with one leading axis for its rows."""

    def __getitem__(self, number: int, /) -> Mapping[str, Tensor]: ...


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Encoded images or prompts, one row each; rows of different shards may differ in shape.

    Attributes:
        shards: The tensors; in memory, or mapped from files.
        places: Shard of each row, and its number in there.
    """

    shards: Shards
    places: Int[Tensor, "M 2"]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Iterable[int]) -> dict[str, Tensor]:
        """Rows of one shape, stacked by name, in float32."""
        places = self.places[torch.as_tensor(list(rows))].tolist()
        return {
            name: torch.stack([self.shards[shard][name][row] for shard, row in places]).float()
            for name in self.shards[places[0][0]]
        }

    def shape(self, row: int, name: str) -> Size:
        """Shape of one tensor of a row."""
        return self.shards[int(self.places[row, 0])][name].shape[1:]


class Rows(Protocol):
    """Where encoded rows are kept under a key, until all are there and are read as a table.

    Attributes:
        dtype: Type in which latents and embeddings are kept.
    """

    dtype: torch.dtype

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The distinct keys that are still to be encoded, in order."""
        ...

    def spot_check(self, encoded: Callable[[str], Condition]) -> None:
        """Compare some of the rows that were there before with what a key gives when it is encoded now."""
        ...

    def add(self, keys: Sequence[str], rows: Condition) -> None:
        """Keep rows of one shape: tensors by name, leading axis as long as the keys."""
        ...

    def table(self, keys: Sequence[str]) -> Table:
        """The rows of these keys, which are all there."""
        ...


@final
class InMemory:
    """Rows that are kept in memory, as they come; nothing is there from before."""

    dtype = torch.float32

    def __init__(self) -> None:
        self._shards: list[Condition] = []
        self._places: dict[str, tuple[int, int]] = {}

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The distinct keys that are still to be encoded, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def spot_check(self, encoded: Callable[[str], Condition]) -> None:
        """Nothing to compare."""

    def add(self, keys: Sequence[str], rows: Condition) -> None:
        """Keep rows of one shape: tensors by name, leading axis as long as the keys."""
        self._places.update({key: (len(self._shards), row) for row, key in enumerate(keys)})
        self._shards.append(rows)

    def table(self, keys: Sequence[str]) -> Table:
        """The rows of these keys, which are all there."""
        return Table(self._shards, torch.tensor([self._places[key] for key in keys]))
