"""Blocks of rows that were read last: row groups of parquet, runs of lines, runs of samples in a tar file."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from itertools import accumulate
from typing import TypeVar, final

BLOCK_ROWS = 256
"""Rows of a block where the file itself has none, as lines and tar files."""

Block = TypeVar("Block")


@final
class Recent:
    """The blocks that were read last, up to a number of bytes; shared by all files of a data set.

    The last one is always kept, however large it is.

    Args:
        limit: Bytes of the blocks that are kept.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self._limit, self._size = limit, 0
        self._blocks: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], tuple[Block, int]]) -> Block:
        """The block of a key; if it is not here, `read` gives it with its size in bytes."""
        if key not in self._blocks:
            self._blocks[key] = read()
            self._size += self._blocks[key][1]
        self._blocks.move_to_end(key)
        while len(self._blocks) > 1 and self._size > self._limit:
            self._size -= self._blocks.popitem(last=False)[1][1]
        return self._blocks[key][0]  # type: ignore[return-value]


@final
class Cuts:
    """A row of things laid end to end, and where a position lies in it.

    Args:
        sizes: Length of each thing.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __call__(self, position: int) -> tuple[int, int]:
        """Number of the thing that a position lies in, and the place in it, both from 0."""
        number = bisect_right(self._ends, position)
        return number, position - (self._ends[number - 1] if number else 0)
