"""Folders that `save_to_disk` of Hugging Face `datasets` wrote; needs the extra `penchant[datasets]`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from penchant.data.recent import BLOCK_ROWS
from penchant.errors import DataError


def is_copy(folder: Path) -> bool:
    """True if a folder holds one data set; one with several splits holds such folders."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


@final
class CopiedTable:
    """Rows of one such folder, mapped into memory; images stay encoded.

    Raises:
        DataError: `datasets` is not installed, or cannot read the folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from datasets import load_from_disk
        except ImportError as error:
            raise DataError(
                f"{folder}: a data set of Hugging Face `datasets`, which is not installed. "
                "Install penchant[datasets]."
            ) from error
        try:
            rows: Any = load_from_disk(str(folder))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{folder}: cannot be read ({error}). Copy it again.") from error
        self.path = folder / "state.json"
        self.files = tuple(Path(file["filename"]) for file in rows.cache_files)
        self.names: Sequence[str] = rows.column_names
        self._kinds: pa.Schema = rows.features.arrow_schema
        self._rows = rows.with_format("arrow")
        self.blocks = [min(BLOCK_ROWS, len(rows) - start) for start in range(0, len(rows), BLOCK_ROWS)]

    def has_list(self, name: str) -> bool:
        """True if a column holds lists."""
        kind = self._kinds.field(name).type
        return pa.types.is_list(kind) or pa.types.is_large_list(kind)

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows, some columns."""
        for batch in self._rows.select_columns(list(dict.fromkeys(names))).iter(BLOCK_ROWS):
            yield from batch.to_pylist()

    def row(self, position: int) -> dict[str, Any]:
        """One row, all columns."""
        return self._rows[position].to_pylist()[0]

    def where(self, position: int) -> str:
        """Place of a row, for messages."""
        return f"{self.path.parent}: row {position + 1}"
