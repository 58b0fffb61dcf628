"""Tables that are text: JSON lists and JSONL; and tables whose rows are joined by a column."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, final

from penchant.data.columns import Table, row_or_error
from penchant.data.lines import object_of
from penchant.data.recent import BLOCK_ROWS, Cuts, Recent
from penchant.errors import DataError


@final
class JsonLines:
    """Lines of one object each; a run of lines is read when one of them is asked for.

    Raises:
        DataError: The file has no row, or none of its first 256 can be read.
    """

    def __init__(self, path: Path, recent: Recent) -> None:
        """Find where every 256th line starts.

        Args:
            path: The file.
            recent: Runs of lines that were read last, of this and other files.
        """
        self.path, self.files, self._recent = path, (path,), recent
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file, got 0 bytes.")
        self.blocks: list[int] = []
        self._starts: list[tuple[int, int]] = []  # byte and number of the first line of each block
        for offset, number, _ in _lines(path, 0, 1):
            if not self.blocks or self.blocks[-1] == BLOCK_ROWS:
                self.blocks.append(0)
                self._starts.append((offset, number))
            self.blocks[-1] += 1
        if not self.blocks:
            raise DataError(f"{path}: no rows, got blank lines only.")
        self._cuts = Cuts(self.blocks)
        self._first = _readable(self.light(()))[0]
        self.names = list(self._first)

    def has_list(self, name: str) -> bool:
        """True if a column holds lists, judged by the first line that can be read."""
        return isinstance(self._first.get(name), list)

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any] | DataError]:
        """All rows, with all columns; text is light."""
        return (row_or_error(self.row, position) for position in range(len(self._cuts)))

    def number(self, position: int) -> int:
        """Number of a line, from 1; blank lines are counted, but have no position."""
        return self._line(position)[0]

    def row(self, position: int) -> dict[str, Any]:
        """The object of a line."""
        return object_of(self._line(position)[1], where=self.where(position))

    def where(self, position: int) -> str:
        """Place of a row, for messages."""
        return f"{self.path}: line {self.number(position)}"

    def _line(self, position: int) -> tuple[int, bytes]:
        block, offset = self._cuts(position)
        return self._recent.get((self.path, block), lambda: self._block(block))[offset]

    def _block(self, block: int) -> tuple[list[tuple[int, bytes]], int]:
        lines, size = [], 0
        for _, number, line in _lines(self.path, *self._starts[block]):
            lines.append((number, line))
            size += len(line)
            if len(lines) == self.blocks[block]:
                break
        return lines, size


def _lines(path: Path, offset: int, number: int) -> Iterator[tuple[int, int, bytes]]:
    """Byte, number and content of the lines that are not blank, from a line on."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.strip():
                yield offset, number, line
            offset, number = offset + len(line), number + 1


def json_entries(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that is one list of them.

    Raises:
        DataError: It is not such a list.
    """
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}).") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: must be a list of objects, got {_shown(entries)}.")
    return entries


class RowOf(Protocol):
    """Makes a flat row of an entry of a JSON list."""

    def __call__(self, entry: dict[str, Any], /, *, number: int, where: str) -> dict[str, Any]:
        """The row of the entry with a number, counted from 1; `where` is the file, for messages."""
        ...


def _itself(entry: dict[str, Any], /, *, number: int, where: str) -> dict[str, Any]:
    return entry


@final
class JsonList:
    """Entries of a list of objects, as HPDv2 and Label Studio write it; they stay in memory.

    Raises:
        DataError: None of the first 256 entries gives a row.
    """

    def __init__(self, path: Path, entries: Sequence[dict[str, Any]], row_of: RowOf = _itself) -> None:
        """Look at the first entries.

        Args:
            path: The file.
            entries: What is in it.
            row_of: Makes a flat row of an entry.
        """
        self.path, self.files = path, (path,)
        self._entries, self._row_of = entries, row_of
        self.blocks = [min(BLOCK_ROWS, len(entries) - at) for at in range(0, len(entries), BLOCK_ROWS)]
        first = _readable(self.light(()))
        self.names = list(dict.fromkeys(name for row in first for name in row))
        self._first = first[0]

    def has_list(self, name: str) -> bool:
        """True if a column holds lists, judged by the first row."""
        return isinstance(self._first.get(name), list)

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any] | DataError]:
        """All rows, with all columns."""
        return (row_or_error(self.row, position) for position in range(len(self._entries)))

    def row(self, position: int) -> dict[str, Any]:
        """One row."""
        return self._row_of(self._entries[position], number=position + 1, where=str(self.path))

    def where(self, position: int) -> str:
        """Place of a row, for messages."""
        return f"{self.path}: entry {position + 1}"


def _readable(rows: Iterator[dict[str, Any] | DataError]) -> list[dict[str, Any]]:
    """The rows among the first 256 that can be read; there is one at least.

    Raises:
        DataError: None can be read; what is wrong with the first.
    """
    first = list(islice(rows, BLOCK_ROWS))
    readable = [row for row in first if isinstance(row, dict)]
    for row in first:
        if isinstance(row, DataError) and not readable:
            raise row
    return readable


def _shown(rows: Any) -> str:
    return f"{type(rows).__name__} of {len(rows)}" if isinstance(rows, list | dict) else type(rows).__name__


@final
class Grouped:
    """A table of one image per row, joined to one row per value of a column; the others become lists.

    Rows of a group need not be neighbours; groups and rows keep their order. One number per row of the table
    stays in memory.
    """

    def __init__(self, table: Table, by: str, same: Sequence[str]) -> None:
        """Find the rows of each group.

        Args:
            table: One image per row.
            by: Column whose equal values belong together.
            same: Columns that all rows of a group share; they stay single values.
        """
        self.path, self.names, self.files = table.path, table.names, table.files
        self._table, self._same = table, frozenset((by, *same))
        if by not in table.names:
            raise DataError(
                f"{table.path}: no column {by!r} as `columns` names it. There are: {', '.join(table.names)}."
            )
        members: dict[Any, list[int]] = {}
        for position, row in enumerate(table.light([by])):
            members.setdefault(row[by], []).append(position)
        self._members = list(members.values())
        self.blocks = [
            min(BLOCK_ROWS, len(self._members) - start) for start in range(0, len(self._members), BLOCK_ROWS)
        ]

    def has_list(self, name: str) -> bool:
        """True if a column differs within a group, so that it holds a list here."""
        return name not in self._same

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All groups, some columns."""
        rows = [{name: row.get(name) for name in names} for row in self._table.light(names)]
        return (self._joined([rows[position] for position in members]) for members in self._members)

    def row(self, position: int) -> dict[str, Any]:
        """One group, all columns."""
        return self._joined([self._table.row(member) for member in self._members[position]])

    def where(self, position: int) -> str:
        """Place of the first row of a group, for messages."""
        return self._table.where(self._members[position][0])

    def _joined(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: value if name in self._same else [row.get(name) for row in rows]
            for name, value in rows[0].items()
        }
