"""One way in and one way out: reads every known layout, writes the library's own parquet."""

from collections.abc import Iterable
from pathlib import Path

from penchant.data import parquet
from penchant.data.dataset import Dataset
from penchant.data.folder import read_folder
from penchant.data.jsonl import read_jsonl
from penchant.data.pickapic import pickapic_rows
from penchant.data.rows import Example
from penchant.errors import DataError

_KNOWN = ".parquet, .jsonl, or a folder of images"


def read(path: Path | str, *, split: str | None = None, where: str | None = None) -> Dataset:
    """Open preference data; images are not read before an example is asked for.

    Args:
        path: A parquet file (Pick-a-Pic's columns or the library's own), a `.jsonl` file, or a folder.
        split: Keep only the rows of this split; all rows if None.
        where: Place that named the path, such as `run.yaml: data.path`, for messages.

    Raises:
        DataError: There is no such file, its type is unknown, or its content is wrong.
    """
    path = Path(path)
    place = f"{where}: " if where else ""
    if not path.exists():
        raise DataError(f"{place}{path}: no such file or folder. Known: {_KNOWN}.")
    try:
        dataset = _open(path, place)
    except OSError as error:
        raise DataError(f"{place}{path}: cannot be read ({error.strerror or error}).") from error
    return dataset if split is None else _of_split(dataset, split)


def write_parquet(examples: Iterable[Example], path: Path | str, *, overwrite: bool = False) -> int:
    """Write examples, read one after the other, in the library's own layout; the number of rows written.

    The file appears only when it is complete.

    Raises:
        DataError: The file exists and may not be replaced, cannot be written, or there is no example.
    """
    return parquet.write(examples, Path(path), overwrite=overwrite)


def _open(path: Path, place: str) -> Dataset:
    if path.is_dir():
        return read_folder(path)
    match path.suffix.lower():
        case ".parquet":
            groups = parquet.RowGroups(path)
            rows = parquet.native_rows(groups) or pickapic_rows(groups)
            return Dataset(path, rows.headers(), rows.example, files=[path])
        case ".jsonl":
            return read_jsonl(path)
        case other:
            raise DataError(f"{place}{path}: unknown file type, got {other!r}. Known: {_KNOWN}.")


def _of_split(dataset: Dataset, split: str) -> Dataset:
    chosen = [at for at, header in enumerate(dataset.headers) if header.split == split]
    if chosen:
        return dataset.select(chosen)
    known = sorted({header.split for header in dataset.headers if header.split is not None})
    if not known:
        raise DataError(
            f"{dataset.path}: no row has a split, got split {split!r}. "
            f"Make splits with `penchant data split`, or leave the split out."
        )
    raise DataError(f"{dataset.path}: unknown split {split!r}. Known: {', '.join(known)}.")
