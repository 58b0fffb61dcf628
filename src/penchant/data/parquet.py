"""Parquet files: rows read one row group at a time, and the library's own layout of N candidates a row."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penchant.data.dataset import Header
from penchant.data.paths import Place
from penchant.data.recent import Cuts, Recent
from penchant.data.rows import SCHEMA_VERSION, Example, from_dict, require_known_version, to_dict
from penchant.errors import DataError, LayoutError
from penchant.files import replacing

_VERSION_KEY = b"penchant.schema_version"
_CANDIDATE = pa.struct(
    [
        ("image", pa.binary()),
        ("text", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("label", pa.int8()),
        ("votes", pa.int32()),
        ("style", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("mask", pa.binary()),
        ("segments", pa.list_(pa.float64())),
        ("meta", pa.string()),  # JSON
    ]
)
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("candidates", pa.list_(_CANDIDATE)),
        ("preference", pa.list_(pa.float64())),
        ("split", pa.string()),
        ("provenance", pa.string()),  # JSON
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)
_GROUP_ROWS, _GROUP_BYTES = 256, 32 * 2**20


@final
class RowGroups:
    """Rows of one parquet file; the row groups that were read last stay in memory.

    Attributes:
        path: The file.
        names: Its columns.
        blocks: Rows of each row group.
        files: The file, as the only one that the rows come from.

    Raises:
        DataError: The file is empty, cut off, not parquet, or has no rows.
    """

    def __init__(self, path: Place, recent: Recent) -> None:
        """Read the footer of the file, once.

        Args:
            path: The file.
            recent: Row groups that were read last, of this and other files.
        """
        self.path, self.files, self._recent = path, (path,), recent
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file, got 0 bytes.")
        try:
            with path.open("rb") as opened, pq.ParquetFile(opened) as file:
                self.schema, self._footer = file.schema_arrow, file.metadata
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: not a complete parquet file: its end is missing or damaged. "
                "Copy or download it again."
            ) from error
        self.names: Sequence[str] = self.schema.names
        if self._footer.num_rows == 0:
            raise DataError(f"{path}: no rows, got columns {', '.join(self.names)} only.")
        groups = range(self._footer.num_row_groups)
        self.blocks = [self._footer.row_group(group).num_rows for group in groups]
        self._cuts = Cuts(self.blocks)

    def has_list(self, name: str) -> bool:
        """True if a column holds lists."""
        kind = self.schema.field(name).type
        return pa.types.is_list(kind) or pa.types.is_large_list(kind)

    def light(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """All rows of some light columns; a nested column is named like `candidates.list.element.label`."""
        columns = list(names)
        for group in range(len(self.blocks)):
            yield from self._read(lambda file, g=group: file.read_row_group(g, columns=columns)).to_pylist()

    def row(self, position: int) -> dict[str, Any]:
        """One row with all columns; position counts from 0."""
        group, offset = self._cuts(position)
        return self._recent.get((self.path, group), lambda: self._group(group))[offset]

    def where(self, position: int) -> str:
        """Place of a row, for messages."""
        return f"{self.path}: row {position + 1}"

    def _group(self, group: int) -> tuple[list[dict[str, Any]], int]:
        table = self._read(lambda file: _whole_microseconds(file.read_row_group(group)))
        return table.to_pylist(), table.nbytes

    def _read(self, read: Any) -> pa.Table:
        try:
            with self.path.open("rb") as opened, pq.ParquetFile(opened, metadata=self._footer) as file:
                return read(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path}: damaged parquet file ({error}). Copy or download it again."
            ) from error


@final
@dataclass(frozen=True, slots=True)
class NativeRows:
    """Rows in the library's own layout: `prompt, candidates, preference, split, provenance`."""

    groups: RowGroups
    version: int

    @property
    def blocks(self) -> Sequence[int]:
        """Rows of each row group."""
        return self.groups.blocks

    @property
    def files(self) -> Sequence[Place]:
        """The file."""
        return self.groups.files

    def splits(self) -> Iterator[str | None]:
        """Split of every row."""
        return (row["split"] for row in self.groups.light(["split"]))

    def headers(self) -> list[Header]:
        """Prompt, preference and split of every row."""
        light = ["prompt", "preference", "split", "candidates.list.element.label"]
        return [
            Header(
                row=number,
                prompt=row["prompt"],
                preference=None if row["preference"] is None else tuple(row["preference"]),
                split=row["split"],
                labelled=any(candidate["label"] is not None for candidate in row["candidates"]),
            )
            for number, row in enumerate(self.groups.light(light), start=1)
        ]

    def example(self, position: int) -> Example:
        """The example at a position, counted from 0."""
        row = self.groups.row(position)
        candidates = [
            {**stored, "scores": dict(stored["scores"] or ()), "meta": json.loads(stored["meta"] or "{}")}
            for stored in row["candidates"]
        ]
        provenance = json.loads(row["provenance"] or "{}")
        values = {"candidates": candidates, "provenance": provenance, "schema_version": self.version}
        return from_dict(row | values, where=self.groups.where(position))


def native_rows(groups: RowGroups) -> NativeRows | None:
    """The rows, if the file has the library's own layout; None if it has another.

    Raises:
        DataError: It has that layout, but was written by a newer version, or a column has another type.
    """
    stored: Mapping[bytes, bytes] = groups.schema.metadata or {}
    if _VERSION_KEY not in stored and "candidates" not in groups.schema.names:
        return None
    version = int(stored.get(_VERSION_KEY, b"1"))
    require_known_version(version, where=str(groups.path))
    for wanted in SCHEMA:
        require_column(groups, wanted.name, known=SCHEMA.names)
        got = groups.schema.field(wanted.name).type
        if got != wanted.type:
            raise DataError(f"{groups.path}: column {wanted.name!r}: must be {wanted.type}, got {got}.")
    return NativeRows(groups, version)


def require_column(groups: RowGroups, name: str, *, known: Iterable[str]) -> None:
    """Raise a LayoutError that lists the needed columns, if one is missing."""
    if name not in groups.schema.names:
        raise LayoutError(
            f"{groups.path}: column {name!r}: missing, got {', '.join(groups.schema.names)}. "
            f"Needed: {', '.join(known)}."
        )


def write(examples: Iterable[Example], path: Path, *, overwrite: bool = False) -> int:
    """Write examples in the library's own layout; the file appears only when it is complete.

    Args:
        examples: Any number of examples, at least one; read one after the other.
        path: File to write, ending in `.parquet`; its folder is made if need be.
        overwrite: Replace a file that exists.

    Returns:
        Number of rows written.

    Raises:
        DataError: The file exists, cannot be written, has another ending, or there is no example.
    """
    if path.suffix != ".parquet":
        raise DataError(f"{path}: unknown file type to write, got {path.suffix!r}. Known: .parquet.")
    if path.exists() and not overwrite:
        raise DataError(f"{path}: exists already. Choose another name, or replace it with --overwrite.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            num_rows = _write_all(examples, partial)
            if num_rows == 0:
                raise DataError(f"{path}: nothing to write, got 0 examples.")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}).") from error
    return num_rows


def _write_all(examples: Iterable[Example], path: Path) -> int:
    num_rows = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for rows in _row_groups(examples):
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            num_rows += len(rows)
    return num_rows


def _row_groups(examples: Iterable[Example]) -> Iterator[list[dict[str, Any]]]:
    """Rows in groups of limited length and size."""
    rows, size = [], 0
    for example in examples:
        row = to_dict(example)
        for candidate in row["candidates"]:
            candidate["scores"] = list(candidate["scores"].items())
            candidate["meta"] = json.dumps(candidate["meta"])
            size += len(candidate["image"] or b"")
        row["provenance"] = json.dumps(row["provenance"])
        rows.append(row)
        if len(rows) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _whole_microseconds(table: pa.Table) -> pa.Table:
    """The table with nanosecond times cut to microseconds, which Python's own type can hold."""
    for at, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            wanted = pa.timestamp("us", column.type.tz)
            table = table.set_column(at, column.name, pc.cast(table.column(at), wanted, safe=False))
    return table
