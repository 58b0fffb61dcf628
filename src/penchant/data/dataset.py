"""A sequence of examples that are read when they are asked for, and what is known of them before."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, final, overload

from penchant.data.paths import Place
from penchant.data.recent import Cuts
from penchant.data.rows import Example
from penchant.errors import DataError
from penchant.files import sha256
from penchant.shapes import Shape, grouping


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The light part of an example: known for all rows as soon as a file is open.

    Attributes:
        row: Number in its file: row or line, the first is 1.
        prompt: The prompt.
        preference: One score per candidate, or None.
        labelled: A candidate carries a label of its own.
        split: Name of the part it belongs to, or None.
        error: What is wrong with the row, so that it cannot be read; None if nothing is.
    """

    row: int
    prompt: str
    preference: tuple[float, ...] | None
    split: str | None
    labelled: bool = False
    error: DataError | None = None

    @classmethod
    def broken(cls, row: int, split: str | None, error: DataError) -> "Header":
        """The header of a row that cannot be read."""
        return cls(row=row, prompt="", preference=None, split=split, error=error.with_traceback(None))


class Rows(Protocol):
    """The rows of one file, as the reader of a layout offers them."""

    @property
    def blocks(self) -> Sequence[int]:
        """Rows of each piece of the file that is read at once."""
        ...

    @property
    def files(self) -> Sequence[Place]:
        """Every file that the rows come from; images of their own only after `headers()`."""
        ...

    def splits(self) -> Iterator[str | None] | None:
        """The split that every row names; None if rows name none."""
        ...

    def headers(self) -> list[Header]:
        """What is known of every row without its images; a row that cannot be read is marked."""
        ...

    def example(self, position: int) -> Example:
        """The row at a position, counted from 0.

        Raises:
            DataError: Something in this row is wrong.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Joined:
    """Rows of several files, one after the other; numbers of rows run on.

    Attributes:
        parts: Rows of each file.
        splits: Split that the name of each file tells, for rows that name none themselves.
    """

    parts: Sequence[Rows]
    splits: Sequence[str | None]

    def dataset(self, path: Path) -> "Dataset":
        """All rows as a data set."""
        headers: list[Header] = []
        sizes: list[int] = []
        for part, split in zip(self.parts, self.splits, strict=True):
            own, before = part.headers(), len(headers)
            sizes.append(len(own))
            headers += [replace(h, row=h.row + before, split=h.split or split) for h in own]
        cuts = Cuts(sizes)

        def example(position: int) -> Example:
            part, offset = cuts(position)
            return self.example(part, offset)

        files = [file for part in self.parts for file in part.files]
        return Dataset(path, headers, example, files=files)

    def example(self, part: int, position: int) -> Example:
        """One row of one file."""
        example = self.parts[part].example(position)
        return example if example.split else replace(example, split=self.splits[part])


@final
class Dataset(Sequence[Example]):
    """Examples of one file or folder, in its order; images are not read until an example is asked for.

    Attributes:
        name: File or folder name.
        path: File or folder it was read from, as the user wrote it; used in messages.
        headers: Number, prompt, preference and split of each example, known without reading images.
    """

    def __init__(
        self,
        path: Path,
        headers: Sequence[Header],
        example: Callable[[int], Example],
        *,
        files: Sequence[Place],
        positions: Sequence[int] | None = None,
    ) -> None:
        """Join headers with a way to read.

        Args:
            path: File or folder.
            headers: One per example of the whole file.
            example: Reads the example at a position of the whole file.
            files: Every file that the examples come from, for the content hash.
            positions: Which examples belong to this data set; all if None.
        """
        self.path, self.name = path, path.name
        self._all, self._example, self._files = headers, example, files
        self._positions = range(len(headers)) if positions is None else positions
        self.headers = [headers[position] for position in self._positions]

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Example | Dataset":
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self._example(self._positions[index])

    def select(self, indices: Iterable[int]) -> "Dataset":
        """The examples at some positions of this data set, as a data set of the same file."""
        positions = [self._positions[index] for index in indices]
        return Dataset(self.path, self._all, self._example, files=self._files, positions=positions)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the bytes of the file; of a folder, or a list of images, over its file hashes.

        A selection has the hash of the file it was made from.
        """
        if len(self._files) == 1:
            return _hash(self._files[0])
        joined = hashlib.sha256()
        for file in self._files:
            joined.update(f"{_hash(file)}  {file.name}\n".encode())
        return joined.hexdigest()


def count_usable(dataset: Dataset, shape: Shape) -> int:
    """Number of examples that a method of this shape can learn from.

    PAIR, RANKED: at least two candidates with different scores. UNARY: a label, or such a preference.
    """
    decided = [
        header.preference is not None and len(set(header.preference)) > 1 for header in dataset.headers
    ]
    if shape is Shape.UNARY:
        return sum(a or header.labelled for a, header in zip(decided, dataset.headers, strict=True))
    return sum(decided)


def require_usable(dataset: Dataset, shape: Shape) -> int:
    """The number of usable examples, as `count_usable`.

    Raises:
        DataError: There is none; the message says whether all are ties or none was judged.
    """
    if usable := count_usable(dataset, shape):
        return usable
    total = len(dataset)
    judged = [h.preference for h in dataset.headers if h.preference is not None and len(h.preference) > 1]
    if judged and len(judged) == total:
        raise DataError(
            f"{dataset.path}: only ties, got {total} of {total} rows with equal scores. "
            f"At least one row must prefer one candidate."
        )
    num_ties = sum(grouping.pairs(scores).num_ties > 0 for scores in judged)
    raise DataError(
        f"{dataset.path}: zero usable rows for a {shape.value} method, got {total} rows: {num_ties} tied, "
        f"{total - len(judged)} without a preference between candidates. Label some rows."
    )


def _hash(file: Place) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
