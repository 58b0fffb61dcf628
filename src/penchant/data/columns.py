"""Tables in any columns: which of them hold the prompt, the images and what was preferred.

Axes: K candidates.
"""

import json
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from penchant.data.dataset import Header
from penchant.data.paths import Place, image_at
from penchant.data.rows import Candidate, Example
from penchant.errors import ConfigError, DataError, LayoutError
from penchant.numerics import is_finite

RULES = ("scores", "ranks", "votes", "winner", "label")
"""Columns that say what was preferred; a table has one of them, or its images stand best first."""


class Table(Protocol):
    """Rows of named values in a file."""

    @property
    def path(self) -> Place:
        """The file."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Its columns."""
        ...

    @property
    def blocks(self) -> Sequence[int]:
        """Rows of each piece that is read at once."""
        ...

    @property
    def files(self) -> Sequence[Place]:
        """The files that the table lies in."""
        ...

    def has_list(self, name: str) -> bool:
        """True if a column holds lists."""
        ...

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any] | DataError]:
        """All rows, at least these columns; of a row that cannot be read, what is wrong with it."""
        ...

    def row(self, position: int) -> dict[str, Any]:
        """One row, all columns."""
        ...

    def where(self, position: int) -> str:
        """Place of a row, for messages."""
        ...


def row_or_error(row: Callable[[int], dict[str, Any]], position: int) -> dict[str, Any] | DataError:
    """The row at a position; if it cannot be read, what is wrong with it."""
    try:
        return row(position)
    except DataError as error:
        return error


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns that are read; all others go to the provenance.

    Attributes:
        images: One column that holds a list of images (or a single one), or one column per candidate.
            An image is its encoded bytes, `{bytes, path}` as Hugging Face datasets store it, or a path.
        prompt: The prompt; None for data without prompts.
        scores: Score of each candidate, higher is better: one column with a list, or one per candidate.
        ranks: As scores, but lower is better.
        votes: As scores: how many people preferred each.
        winner: Number of the preferred candidate, counted from 0; empty or NaN where nobody has judged.
        label: Whether the only image is desirable: true or false, or 1 or -1.
        group: Rows with an equal value here are one example, with one image each; a row without is one alone.
        split: Part of the data that a row belongs to; text.

    Raises:
        ConfigError: No image, or two columns that say what was preferred.
    """

    images: tuple[str, ...]
    prompt: str | None = None
    scores: tuple[str, ...] = ()
    ranks: tuple[str, ...] = ()
    votes: tuple[str, ...] = ()
    winner: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("columns.images: name at least one column, got none.")
        if len(given := [name for name in RULES if getattr(self, name)]) > 1:
            raise ConfigError(
                f"columns: at most one of {', '.join(RULES)} says what was preferred, got {', '.join(given)}."
            )
        for name in ("scores", "ranks", "votes"):
            if len(self.images) > 1 and getattr(self, name) and len(getattr(self, name)) != len(self.images):
                raise ConfigError(
                    f"columns.{name}: needs one column per image column, got {len(getattr(self, name))} for "
                    f"{len(self.images)}."
                )

    @property
    def judged(self) -> tuple[str, ...]:
        """The columns that say what was preferred."""
        single = tuple(name for name in (self.winner, self.label) if name is not None)
        return self.scores or self.ranks or self.votes or single

    @property
    def light(self) -> tuple[str, ...]:
        """Every column that is read, but for the images."""
        return (*(name for name in (self.prompt, self.split, self.group) if name is not None), *self.judged)


@final
class ColumnRows:
    """The rows of a table, read through a map of its columns.

    Attributes:
        files: The files of the table, and after `headers()` the images that it names.

    Raises:
        LayoutError: A column of the map is not in the table; names it and those that are there.
    """

    def __init__(self, table: Table, columns: Columns, *, absent: Sequence[str] = ()) -> None:
        """Check that the columns are there.

        Args:
            table: Where the rows are; of a table with one image per row, the rows that belong together are
                joined by the caller.
            columns: What to read.
            absent: Columns that no row may have.
        """
        self.table, self.columns, self._absent = table, columns, absent
        self.blocks, self.files = table.blocks, table.files
        unknown = [name for name in (*columns.light, *columns.images) if name not in table.names]
        if unknown:
            raise LayoutError(
                f"{table.path}: no column {', '.join(map(repr, unknown))} as `columns` names it. "
                f"There are: {', '.join(table.names)}."
            )
        used = {*columns.light, *columns.images}
        self._rest = [name for name in table.names if name not in used]

    def splits(self) -> Iterator[str | None] | None:
        """Split of every row, if the map names such a column; None where it is not text."""
        if (name := self.columns.split) is None:
            return None
        return (_split_or_none(row, name) for row in self.table.light([name]))

    def headers(self) -> list[Header]:
        """Prompt, preference and split of every row; labels are checked here."""
        columns = self.columns
        names = columns.light
        if not columns.judged and len(columns.images) == 1:
            names = (*names, *columns.images)  # only the list of images says how many there are
        headers = []
        for position, row in enumerate(self.table.light(names)):
            try:
                headers.append(self._header(row, position, names))
            except DataError as error:
                split = None if columns.split is None else _split_or_none(row, columns.split)
                headers.append(Header.broken(position + 1, split, error))
        return headers

    def _header(self, row: dict[str, Any] | DataError, position: int, names: Sequence[str]) -> Header:
        if isinstance(row, DataError):
            raise row
        where, columns = self.table.where(position), self.columns
        self._require(row, names, where)
        return Header(
            row=position + 1,
            prompt=_prompt(row, columns, where),
            preference=_preference(row, columns, _num_images(row, columns), where),
            split=_split(row, columns, where),
            labelled=columns.label is not None,
        )

    def example(self, position: int) -> Example:
        """The row at a position, counted from 0."""
        row, where, columns = self.table.row(position), self.table.where(position), self.columns
        self._require(row, (*columns.light, *columns.images), where)
        images = _images(row, columns, where)
        label = None if columns.label is None else _label(row[columns.label], columns.label, where)
        votes = _numbers(row, columns.votes, where) or [None] * len(images)
        return Example(
            prompt=_prompt(row, columns, where),
            candidates=tuple(
                Candidate(
                    image=_encoded(image, self.table.path, f"{where}: image {number}"),
                    label=label,
                    votes=None if voted is None else int(voted),
                    where=f"{where}: image {number}",
                )
                for number, (image, voted) in enumerate(zip(images, votes, strict=True))
            ),
            preference=_preference(row, columns, len(images), where),
            split=_split(row, columns, where),
            provenance={name: value for name in self._rest if (value := _plain(row.get(name))) is not None},
            where=where,
        )

    def _require(self, row: Mapping[str, Any], names: Sequence[str], where: str) -> None:
        """Lines and samples of a tar file may differ: refuse a row that lacks a column or has too many."""
        if lacking := [name for name in names if name not in row]:
            raise DataError(
                f"{where}: no {', '.join(map(repr, lacking))}, got {', '.join(row) or 'nothing'}."
            )
        if odd := [name for name in self._absent if name in row]:
            raise DataError(
                f"{where}: has {', '.join(map(repr, odd))}, but this file is read as best first. Say with "
                "`data.columns` (typed: `--column`) what is preferred."
            )


def _prompt(row: Mapping[str, Any], columns: Columns, where: str) -> str:
    if columns.prompt is None:
        return ""
    prompt = row.get(columns.prompt)
    if prompt is None:
        return ""
    if not isinstance(prompt, str):
        raise DataError(f"{where}: column {columns.prompt!r}: the prompt must be text, got {prompt!r}.")
    return prompt


def _split(row: Mapping[str, Any], columns: Columns, where: str) -> str | None:
    if columns.split is None or (split := row[columns.split]) is None:
        return None
    if not isinstance(split, str):
        raise DataError(f"{where}: column {columns.split!r}: the split must be text, got {split!r}.")
    return split


def _split_or_none(row: dict[str, Any] | DataError, name: str) -> str | None:
    split = None if isinstance(row, DataError) else row.get(name)
    return split if isinstance(split, str) else None


def _num_images(row: Mapping[str, Any], columns: Columns) -> int | None:
    """Candidates of a row, as far as its light columns tell."""
    first, *others = columns.images
    if others:
        return 1 + len(others)
    images = row.get(first)
    return len(images) if isinstance(images, list) else None


def _images(row: Mapping[str, Any], columns: Columns, where: str) -> list[Any]:
    """The cells of the images; a missing one is named."""
    if len(columns.images) == 1 and isinstance(row.get(columns.images[0]), list):
        return row[columns.images[0]]
    missing = [name for name in columns.images if row.get(name) is None]
    if missing:
        raise DataError(f"{where}: no image in {', '.join(map(repr, missing))}.")
    return [row[name] for name in columns.images]


def _encoded(cell: Any, table: Place, where: str) -> bytes | Path:
    """An image as it is stored: bytes, or the file that a path means."""
    if isinstance(cell, Mapping):  # the image type of Hugging Face datasets
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, str):
        return image_at(table, cell, where=where)
    if not isinstance(cell, bytes):
        raise DataError(f"{where}: must be encoded bytes or a path, got {type(cell).__name__}.")
    return cell


def _preference(
    row: Mapping[str, Any], columns: Columns, num_images: int | None, where: str
) -> tuple[float, ...] | None:
    """One score per candidate; None where nobody has judged."""
    if columns.label is not None:
        return None
    if not columns.judged:
        if num_images is None or num_images < 2:
            raise DataError(f"{where}: needs two images or more, best first, got one.")
        return tuple(float(score) for score in reversed(range(num_images)))
    if columns.winner is not None:
        return _won(row[columns.winner], columns.winner, num_images, where)
    scores = _numbers(row, columns.judged, where)
    if scores is None:
        return None
    if num_images is not None and len(scores) != num_images:
        raise DataError(
            f"{where}: needs one number per candidate in {', '.join(map(repr, columns.judged))}, got "
            f"{len(scores)} for {num_images}."
        )
    return tuple(-score for score in scores) if columns.ranks else tuple(scores)


def _won(value: Any, name: str, num_images: int | None, where: str) -> tuple[float, ...] | None:
    if _is_empty(value):
        return None
    count = 2 if num_images is None else num_images
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(count):
        raise DataError(
            f"{where}: column {name!r}: must be the number of the preferred image, 0 to {count - 1}, got "
            f"{value!r}."
        )
    return tuple(float(number == value) for number in range(count))


def _numbers(row: Mapping[str, Any], names: Sequence[str], where: str) -> list[float] | None:
    """The numbers of one list column, or of one column each; None where the row has none."""
    cells = [row.get(name) for name in names]
    values: Any = cells[0] if len(cells) == 1 else cells
    if values is None or not cells or any(cell is None for cell in cells):
        return None
    values = values if isinstance(values, list) else [values]
    for value in values:
        if not isinstance(value, int | float) or not is_finite(value):
            shown = reprlib.repr(value)
            raise DataError(f"{where}: column {', '.join(map(repr, names))}: must be numbers, got {shown}.")
    return [float(value) for value in values]


def _is_empty(value: Any) -> bool:
    """True for a cell without a value: none, or the NaN that pandas writes in its place."""
    return value is None or value != value


def _label(value: Any, name: str, where: str) -> int | None:
    if _is_empty(value):
        return None
    if isinstance(value, bool):
        return 1 if value else -1
    if value in (1, -1):
        return int(value)
    raise DataError(f"{where}: column {name!r}: must be true, false, 1 or -1, got {value!r}.")


def _plain(value: Any) -> Any:
    """The value as JSON holds it, times as ISO text; None for binary values."""
    try:
        return json.loads(json.dumps(value, default=_as_text))
    except TypeError:
        return None


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise TypeError("binary")
    return str(value)
