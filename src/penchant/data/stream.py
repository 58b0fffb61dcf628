"""Data that does not fit into memory: rows in a keyed order, each place of which is found without the others.

An epoch puts all blocks of all files (row groups of parquet, runs of lines or samples) into a keyed order and
cuts their rows, end to end, into lanes of equal length. Batches draw from all lanes at once, so that rows of
many files meet; a process reads the lanes of its share of the batch only. Within a lane, whole blocks make up
windows of about `shuffle_buffer / lanes` rows, and the rows of a window are shuffled.

Axes: L lanes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, compress, islice
from pathlib import Path
from typing import final

from penchant.data.columns import Columns
from penchant.data.dataset import Joined
from penchant.data.hub import RemoteData
from penchant.data.recent import Cuts, Recent
from penchant.data.rows import Example
from penchant.data.store import remote_rows, rows
from penchant.errors import DataError
from penchant.randomness import Randomness


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring rows of one block, rows of other splits not counted.

    Attributes:
        part: Number of the file.
        block: Number of the block in it.
        start: First row in the block, from 0.
        stop: Row after the last.
    """

    part: int
    block: int
    start: int
    stop: int


@final
@dataclass(frozen=True, slots=True)
class Lane:
    """Windows of one lane of one epoch, in order; every window is read as a whole.

    Attributes:
        windows: Pieces of each window.
        cuts: Finds the window of a place in the lane.
    """

    windows: list[list[Piece]]
    cuts: Cuts


@final
class Stream:
    """Rows of one split, read when they are asked for; of a row nothing stays in memory.

    Attributes:
        path: File, folder or data set of the hub.
        split: Rows of other splits are left out; none if None.
    """

    def __init__(self, path: Path | str, joined: Joined, *, split: str | None) -> None:
        """Count the rows of every block.

        Args:
            path: File, folder or data set of the hub, for messages.
            joined: Rows of all files.
            split: The split that is wanted. Where rows name splits of their own, that column is read once.

        Raises:
            DataError: No row is of this split.
        """
        self.path, self.split, self._joined = path, split, joined
        self._firsts = [[0, *accumulate(part.blocks)] for part in joined.parts]
        self._blocks: list[Piece] = []
        self._which: dict[tuple[int, int], bytes] = {}  # 1 for rows of this split, of blocks with several
        for part in range(len(joined.parts)):
            for block, (size, which) in enumerate(self._members(part)):
                if size:
                    self._blocks.append(Piece(part, block, 0, size))
                    if which is not None:
                        self._which[part, block] = which
        self._num_rows = sum(piece.stop for piece in self._blocks)
        if not self._num_rows:
            raise DataError(
                f"{path}: no row of split {split!r}, by the name of its file or its own. Make splits with "
                "`penchant data split`, name the files after them, or leave the split out."
            )
        self.lanes = lru_cache(maxsize=2)(self._lanes)

    def __len__(self) -> int:
        """Rows of the split, whether they can be read or not."""
        return self._num_rows

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names, sizes and row counts of the files: reading them all would take hours."""
        joined = hashlib.sha256()
        for part in self._joined.parts:
            for file in part.files:
                joined.update(f"{file.name} {file.stat().st_size} {list(part.blocks)}\n".encode())
        return joined.hexdigest()

    def read(self, pieces: Sequence[Piece]) -> Iterator[Example | DataError]:
        """The rows of some pieces; of a row that is broken, what is wrong with it."""
        for piece in pieces:
            firsts = self._firsts[piece.part]
            block: Iterable[int] = range(firsts[piece.block], firsts[piece.block + 1])
            if (which := self._which.get((piece.part, piece.block))) is not None:
                block = compress(block, which)
            for position in islice(block, piece.start, piece.stop):
                yield self._row(piece.part, position)

    def _row(self, part: int, position: int) -> Example | DataError:
        try:
            return self._joined.example(part, position)
        except DataError as error:
            return error

    def _members(self, part: int) -> Iterator[tuple[int, bytes | None]]:
        """Of each block of a file, how many of its rows are of the split, and which; None for all or none."""
        rows, told = self._joined.parts[part], self._joined.splits[part]
        own = None if self.split is None else rows.splits()
        for size in rows.blocks:
            if own is None:
                yield size if self.split in (None, told) else 0, None
            else:
                which = bytes((name or told) == self.split for name in islice(own, size))
                yield sum(which), which if 0 < sum(which) < size else None

    def prompts(self) -> Iterator[str]:
        """Prompts of all rows that can be read, file by file; images are not, but in a tar file."""
        for part, told in zip(self._joined.parts, self._joined.splits, strict=True):
            for header in part.headers():
                if header.error is None and self.split in (None, header.split or told):
                    yield header.prompt

    def in_file_order(self) -> Iterator[Example]:
        """All rows that can be read, file by file."""
        return (row for block in self._blocks for row in self.read([block]) if isinstance(row, Example))

    def _lanes(self, draws: Randomness, num_lanes: int, window: int) -> list[Lane]:
        """The lanes of an epoch.

        Args:
            draws: Random draws of the epoch.
            num_lanes: How many lanes; each gets `len(self) // num_lanes` rows, the rest waits for another
                epoch.
            window: Rows that a window has at least, but for the last of a lane.
        """
        order = iter(draws.permutation(len(self._blocks), "blocks"))
        length, lanes, rest = self._num_rows // num_lanes, [], None
        for _ in range(num_lanes):
            missing, windows, sizes = length, [], []
            while missing:
                piece = rest or self._blocks[next(order)]
                taken = min(missing, piece.stop - piece.start)
                cut = piece.start + taken
                rest = replace(piece, start=cut) if cut < piece.stop else None
                if not sizes or sizes[-1] >= window:
                    windows.append([])
                    sizes.append(0)
                windows[-1].append(replace(piece, stop=cut))
                sizes[-1] += taken
                missing -= taken
            lanes.append(Lane(windows, Cuts(sizes)))
        return lanes


def open_stream(
    path: Path, *, split: str | None = None, columns: Columns | None = None, where: str | None = None
) -> Stream:
    """Open preference data to be streamed; arguments and errors are those of `store.read`."""
    return Stream(path, rows(path, split=split, columns=columns, recent=Recent(0), where=where), split=split)


def open_remote_stream(
    data: RemoteData, *, split: str | None = None, columns: Columns | None = None, where: str
) -> Stream:
    """Open a data set of the hub that is not downloaded; what a step needs is read over the network."""
    joined = remote_rows(data, split=split, columns=columns, recent=Recent(0), where=where)
    return Stream(data.root, joined, split=split)
