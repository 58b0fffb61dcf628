"""Tables that are text: JSON lists and JSONL; and tables whose rows are joined by a column."""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, final

from penchant.data.columns import Table, row_or_error
from penchant.data.lines import object_of
from penchant.data.recent import BLOCK_ROWS, Cuts, Recent
from penchant.errors import DataError, LayoutError


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
@dataclass(frozen=True, slots=True)
class Shared:
    """What the files of a data set have in common.

    Attributes:
        recent: Blocks that were read last.
        last: The joined groups that were read last.
        groups: File of each group, of the files that were opened so far and tell the same split.
    """

    recent: Recent
    last: Recent
    groups: dict[Hashable, str]


@final
class Grouped:
    """A table of one image per row, joined to one row per value of a column; the others become lists.

    Groups and rows keep their order. A row without a value is a group of its own. 256 groups are read at
    once, their rows in the order of the file; so rows of a group need not be neighbours, but if they are, a
    part of the file is read once. One number per row of the table stays in memory, and the last 256 groups.

    Raises:
        LayoutError: There is no such column.
        DataError: A group goes on in another file.
    """

    def __init__(self, table: Table, by: str, same: Sequence[str], shared: Shared) -> None:
        """Find the rows of each group.

        Args:
            table: One image per row.
            by: Column whose equal values belong together.
            same: Columns that all rows of a group share; they stay single values.
            shared: What it has in common with other files; its groups are added.
        """
        self.path, self.names, self.files = table.path, table.names, table.files
        self._table, self._by, self._same = table, by, frozenset((by, *same))
        self._last = shared.last
        if by not in table.names:
            raise LayoutError(
                f"{table.path}: no column {by!r} as `columns` names it. There are: {', '.join(table.names)}."
            )
        self._members: list[list[int]] = []
        known: dict[Hashable, list[int]] = {}
        for position, row in enumerate(table.light([by])):
            key = _key(row, by)
            if key is not None and key in known:
                known[key].append(position)
                continue
            self._members.append([position])
            if key is not None:
                known[key] = self._members[-1]
        self._refuse_others(known, shared.groups)
        shared.groups.update(dict.fromkeys(known, str(table.path)))
        self.blocks = [
            min(BLOCK_ROWS, len(self._members) - start) for start in range(0, len(self._members), BLOCK_ROWS)
        ]
        self._cuts = Cuts(self.blocks)

    def has_list(self, name: str) -> bool:
        """True if a column differs within a group, so that it holds a list here."""
        return name not in self._same

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any] | DataError]:
        """All groups, some columns; a row is kept until the last of its group is read."""
        rows = enumerate(self._table.light(names))
        waiting: dict[int, dict[str, Any] | DataError] = {}
        for members in self._members:
            while members[-1] not in waiting:
                position, row = next(rows)
                waiting[position] = row if isinstance(row, DataError) else _only(row, names)
            yield self._joined(members, [waiting.pop(member) for member in members])

    def row(self, position: int) -> dict[str, Any]:
        """One group, all columns.

        Raises:
            DataError: One of its rows cannot be read, has no single value to join by, or differs from
                the first in what a group shares.
        """
        block, offset = self._cuts(position)
        row = self._last.get((self.path, block), lambda: (self._block(block), 1))[offset]
        if isinstance(row, DataError):
            raise row.with_traceback(None)
        return row

    def where(self, position: int) -> str:
        """Place of the first row of a group, for messages."""
        return self._table.where(self._members[position][0])

    def _block(self, block: int) -> list[dict[str, Any] | DataError]:
        groups = self._members[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        rows = {at: row_or_error(self._table.row, at) for at in sorted(chain.from_iterable(groups))}
        return [self._joined(members, [rows[member] for member in members]) for members in groups]

    def _joined(
        self, members: Sequence[int], rows: Sequence[dict[str, Any] | DataError]
    ) -> dict[str, Any] | DataError:
        whole = []
        for row in rows:
            if isinstance(row, DataError):
                return row
            whole.append(row)
        if (wrong := self._contradiction(members, whole)) is not None:
            return wrong
        return {
            name: value if name in self._same else [row.get(name) for row in whole]
            for name, value in whole[0].items()
        }

    def _contradiction(self, members: Sequence[int], rows: Sequence[dict[str, Any]]) -> DataError | None:
        """Why the rows are no group; None if they are one."""
        first = rows[0]
        if not _is_single(value := first.get(self._by)):
            return DataError(
                f"{self._table.where(members[0])}: column {self._by!r}: must be a single value, which the "
                f"rows of a group share, got {value!r}."
            )
        for member, row in zip(members[1:], rows[1:], strict=True):
            for name in sorted(self._same & first.keys()):
                if row.get(name) != first[name]:
                    return DataError(
                        f"{self._table.where(member)}: column {name!r}: must be the same in all rows of a "
                        f"group, got {row.get(name)!r}, and {first[name]!r} in an earlier row."
                    )
        return None

    def _refuse_others(self, known: dict[Hashable, list[int]], others: dict[Hashable, str]) -> None:
        for key, members in known.items():
            if key in others:
                raise DataError(
                    f"{self._table.where(members[0])}: column {self._by!r}: rows of a group must stand in "
                    f"one file, got {key!r}, which is also in {others[key]}. Put its rows together, or name "
                    "groups differently in each file."
                )


def _key(row: dict[str, Any] | DataError, by: str) -> Hashable | None:
    """What a row is joined by; None if it has no such value, and stays alone."""
    value = None if isinstance(row, DataError) else row.get(by)
    return value if _is_single(value) and value == value else None  # NaN, as pandas writes empty cells


def _is_single(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _only(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}
