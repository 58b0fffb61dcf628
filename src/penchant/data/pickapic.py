"""Parquet in the columns of Pick-a-Pic: one row is one judgement of two images.

Needed: `caption`, `jpg_0`, `jpg_1`, `label_0`. Read when there: `label_1`, `has_label`, `split`. Columns that
come twice, as `NAME_0` and `NAME_1`, say something of each image; all others go to the provenance.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import pyarrow as pa

from penchant.data.dataset import Header
from penchant.data.parquet import RowGroups, require_column
from penchant.data.paths import Place
from penchant.data.rows import Candidate, Example
from penchant.errors import DataError

_logger = logging.getLogger(__name__)
_NEEDED = ("caption", "jpg_0", "jpg_1", "label_0")
_LABELS = ("label_0", "label_1")
_FIELDS = ("style", "source", "license")


@final
@dataclass(frozen=True, slots=True)
class PickapicRows:
    """Rows of two images each, with the names of the columns that describe them.

    Attributes:
        groups: The file.
        per_image: Names that come as `NAME_0` and `NAME_1`.
        per_row: Columns that go to the provenance.
    """

    groups: RowGroups
    per_image: tuple[str, ...]
    per_row: tuple[str, ...]

    @property
    def blocks(self) -> Sequence[int]:
        """Rows of each row group."""
        return self.groups.blocks

    @property
    def files(self) -> Sequence[Place]:
        """The file."""
        return self.groups.files

    def splits(self) -> Iterator[str | None] | None:
        """Split of every row, if there is such a column."""
        if "split" not in self.groups.names:
            return None
        return (row["split"] for row in self.groups.light(["split"]))

    def headers(self) -> list[Header]:
        """Prompt, preference and split of every row; labels are checked here."""
        light = ("caption", *_LABELS, "has_label", "split")
        rows = self.groups.light(name for name in light if name in self.groups.schema.names)
        return [self._header(row, number) for number, row in enumerate(rows, start=1)]

    def example(self, position: int) -> Example:
        """The example at a position, counted from 0."""
        row, where = self.groups.row(position), f"{self.groups.path}: row {position + 1}"
        return Example(
            prompt=row["caption"] or "",
            candidates=tuple(self._candidate(row, side, where) for side in (0, 1)),
            preference=_preference(row, where=where),
            split=row.get("split"),
            provenance={name: _plain(row[name]) for name in self.per_row if row[name] is not None},
            where=where,
        )

    def _header(self, row: dict[str, Any], number: int) -> Header:
        try:
            preference = _preference(row, where=f"{self.groups.path}: row {number}")
        except DataError as error:
            return Header.broken(number, row.get("split"), error)
        return Header(row=number, prompt=row["caption"] or "", preference=preference, split=row.get("split"))

    def _candidate(self, row: dict[str, Any], side: int, where: str) -> Candidate:
        described = {name: row[f"{name}_{side}"] for name in self.per_image}
        image = row[f"jpg_{side}"]
        return Candidate(
            image=(image["bytes"] if isinstance(image, dict) else image) or b"",
            style=described.get("style"),
            source=described.get("source"),
            license=described.get("license"),
            meta={
                name: _plain(value)
                for name, value in described.items()
                if name not in _FIELDS and value is not None
            },
            where=f"{where}: column 'jpg_{side}'",
        )


def pickapic_rows(groups: RowGroups) -> PickapicRows:
    """The rows of a file with these columns.

    Raises:
        DataError: A needed column is missing, or a column has the wrong type.
    """
    for name in _NEEDED:
        require_column(groups, name, known=_NEEDED)
    _require_type(groups, "caption", _is_text, "text")
    _require_type(groups, "split", _is_text, "text")
    _require_type(groups, "has_label", pa.types.is_boolean, "true or false")
    for side in (0, 1):
        _require_type(groups, f"jpg_{side}", _is_image, "binary, an encoded image")
        _require_type(groups, f"label_{side}", _is_number, "a number")
        for name in _FIELDS:
            _require_type(groups, f"{name}_{side}", _is_text, "text")
    names = set(groups.schema.names)
    rest = [name for name in groups.schema.names if name not in (*_NEEDED, "label_1", "has_label", "split")]
    binary = [name for name in rest if _is_image(groups.schema.field(name).type)]
    if binary:
        _logger.warning("%s: binary columns are not kept: %s", groups.path, ", ".join(binary))
    rest = [name for name in rest if name not in binary]
    twins = [name[:-2] for name in rest if name.endswith("_0") and f"{name[:-2]}_1" in names]
    per_row = [name for name in rest if name[:-2] not in twins or name[-2:] not in ("_0", "_1")]
    return PickapicRows(groups, tuple(twins), tuple(per_row))


def _preference(row: dict[str, Any], *, where: str) -> tuple[float, float] | None:
    """Scores of both images; None where the row was not judged."""
    if row.get("has_label") is False or row["label_0"] is None:
        return None
    for name in _LABELS:
        value = row.get(name)
        if value is not None and value not in (0, 0.5, 1):
            raise DataError(f"{where}: column {name!r}: label must be 0, 0.5 or 1, got {value:g}.")
    first = float(row["label_0"])
    second = row.get("label_1")
    if second is not None and first + second != 1:
        raise DataError(
            f"{where}: column 'label_1': label_0 and label_1 must add up to 1, got {first:g} and {second:g}."
        )
    return first, 1 - first


def _require_type(groups: RowGroups, name: str, fits: Callable[[pa.DataType], bool], wanted: str) -> None:
    if name in groups.schema.names and not fits(got := groups.schema.field(name).type):
        raise DataError(f"{groups.path}: column {name!r}: must be {wanted}, got {got}.")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_image(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.StructType):  # the image type of Hugging Face datasets
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _plain(value: Any) -> Any:
    """The value as JSON holds it; times become ISO text."""
    return json.loads(json.dumps(value, default=str))
