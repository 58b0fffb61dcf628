"""One way in and one way out: reads every known layout, writes the library's own parquet."""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import NoReturn, TypeVar

from penchant.data import labelstudio, parquet
from penchant.data.columns import ColumnRows, Columns, Table
from penchant.data.copies import CopiedTable, is_copy
from penchant.data.dataset import Dataset, Joined, Rows
from penchant.data.folder import folder_rows, has_sides
from penchant.data.hub import RemoteData
from penchant.data.jsonl import FORMS, JsonlRows
from penchant.data.layouts import PUBLISHED, WEBDATASET, Layout, grouped, layout_of
from penchant.data.paths import Place
from penchant.data.pickapic import pickapic_rows
from penchant.data.recent import Recent
from penchant.data.rows import Example
from penchant.data.tables import JsonLines, JsonList, Shared, json_entries
from penchant.data.webdataset import TarSamples
from penchant.errors import DataError, LayoutError

File = TypeVar("File", bound=Place)

_SUFFIXES = (".parquet", ".tar", ".jsonl", ".json")
"""File types, the one that a folder is searched for first at the front."""
_REMOTE = (".parquet", ".tar")
"""File types that hold their images, so that they can be read in pieces from afar."""
_KNOWN = ".parquet, .tar, .jsonl, .json, or a folder of such files or of images"

_SPLIT = re.compile(r"(?:^|[-_. /])(train|validation|valid|val|dev|test)(?:ing)?(?=[-_. /]|$)", re.ASCII)
_SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}(-[0-9a-f]{16})?", re.ASCII)
_VALIDATION = ("valid", "val", "dev")


def read(
    path: Path | str,
    *,
    split: str | None = None,
    columns: Columns | None = None,
    where: str | None = None,
    keep_broken: bool = False,
) -> Dataset:
    """Open preference data; images are not read before an example is asked for.

    Args:
        path: A file of a known layout, or a folder of such files or of images; docs/data.md lists them.
        split: Keep only the rows of this split; all rows if None.
        columns: What the columns of the table mean; None finds it out.
        where: Place that named the path, such as `run.yaml: data.path`, for messages.
        keep_broken: Mark rows that cannot be read in their header, instead of raising the error of the first;
            with a split, those of no known split are kept too.

    Raises:
        DataError: There is no such file, its type is unknown, or its content is wrong.
    """
    path = Path(path)
    try:
        dataset = rows(path, split=split, columns=columns, recent=Recent(), where=where).dataset(path)
    except OSError as error:
        raise _unreadable(path, error, where) from error
    for header in dataset.headers:
        if header.error is not None and not keep_broken:
            raise header.error
    return dataset if split is None else _of_split(dataset, split)


def rows(
    path: Path,
    *,
    split: str | None = None,
    columns: Columns | None = None,
    recent: Recent,
    where: str | None = None,
) -> Joined:
    """The rows of every file of a data set, opened but not read.

    A file whose name tells another split is left out. Only if no file tells this split are such files opened,
    and those stay of which a row names it; what is no preference data is passed over.

    Args:
        path: As for `read`.
        split: As for `read`; rows that name a split of their own are not looked at here.
        columns: As for `read`.
        recent: Where blocks that were read last are kept.
        where: As for `read`.

    Raises:
        DataError: As `read`.
    """
    place = f"{where}: " if where else ""
    if not path.exists():
        raise DataError(f"{place}{path}: no such file or folder. Known: {_KNOWN}.")
    files = _files(path) if path.is_dir() else [path]
    if not files:
        return Joined([folder_rows(path)], [None])
    told = [(file, _told(file, path)) for file in files]
    try:
        return _joined(
            told,
            str(path),
            split,
            recent,
            lambda file, shared: _copy(file, columns, shared) or _open(file, columns, shared, place),
            look_inside=columns is None or columns.split is not None,
        )
    except OSError as error:
        raise _unreadable(path, error, where) from error


def remote_rows(
    data: RemoteData, *, split: str | None, columns: Columns | None, recent: Recent, where: str
) -> Joined:
    """The rows of a data set of the hub that is not downloaded; arguments and errors are those of `rows`.

    Files of other splits are opened only if `columns` names the column of the split: each takes requests.
    """
    for suffix in _REMOTE:
        if files := [file for file in data.files if file.suffix == suffix]:
            told = [(file, split_of(file.below(data.root))) for file in files]
            return _joined(
                told,
                data.root,
                split,
                recent,
                lambda file, shared: _open(file, columns, shared, f"{where}: "),
                look_inside=columns is not None and columns.split is not None,
            )
    raise DataError(
        f"{where}: no {', '.join(_REMOTE)} in {data.root}, which can be read from afar. "
        "Download it and give its folder."
    )


def _joined(
    told: Sequence[tuple[File, str | None]],
    name: str,
    split: str | None,
    recent: Recent,
    opened: Callable[[File, Shared], Rows],
    *,
    look_inside: bool,
) -> Joined:
    """The rows of the files that tell no other split; if none tells this one, also of those that hold it."""
    chosen: list[tuple[Rows, str | None]] = []
    known: set[str] = set()
    last, groups = Recent(0), defaultdict[str | None, dict[Hashable, str]](dict)
    look = look_inside and split not in [own for _, own in told]
    for file, own in told:
        shared = Shared(recent, last, groups[own])
        if split is None or own is None or own == split:
            chosen.append((opened(file, shared), own))
            continue
        rows = _opened_or_none(file, shared, opened) if look else None
        parts = None if rows is None else rows.splits()
        named = {own} if parts is None else {part or own for part in parts}
        if rows is not None and split in named:
            chosen.append((rows, own))
        known |= named
    if not chosen:
        raise DataError(f"{name}: unknown split {split!r}. Known: {', '.join(sorted(map(str, known)))}.")
    return Joined([rows for rows, _ in chosen], [own for _, own in chosen])


def _opened_or_none(file: File, shared: Shared, opened: Callable[[File, Shared], Rows]) -> Rows | None:
    """The rows of a file that tells another split; None if it holds something else, such as bare prompts."""
    try:
        return opened(file, shared)
    except LayoutError:
        return None


def write_parquet(examples: Iterable[Example], path: Path | str, *, overwrite: bool = False) -> int:
    """Write examples, read one after the other, in the library's own layout; the number of rows written.

    The file appears only when it is complete.

    Raises:
        DataError: The file exists and may not be replaced, cannot be written, or there is no example.
    """
    return parquet.write(examples, Path(path), overwrite=overwrite)


def split_of(path: PurePath) -> str | None:
    """The split that the name of a file or of its folder tells; None if it tells none.

    `NAME-00000-of-00012.parquet`, also with 16 hex digits behind it, is of split NAME. Else it is the last
    word of the path that is `train`, `validation` (also `valid`, `val` or `dev`) or `test`.
    """
    if (shard := _SHARD.fullmatch(path.stem)) is not None:
        return shard["split"]
    found = _SPLIT.findall(path.with_suffix("").as_posix())
    if not found:
        return None
    return "validation" if found[-1] in _VALIDATION else found[-1]


def _told(file: Path, path: Path) -> str | None:
    """The split that a file tells; a folder of `datasets` tells it if it is one of several."""
    if not is_copy(file):
        return split_of(file.relative_to(path) if path.is_dir() else Path(file.name))
    return file.name if (file.parent / "dataset_dict.json").is_file() else None


def _files(folder: Path) -> list[Path]:
    """Files of rows in a folder and below it, all of one type; none if it is a folder of images."""
    if has_sides(folder):
        return []
    if is_copy(folder):
        return [folder]
    if copies := sorted(file.parent for file in folder.glob("*/state.json") if is_copy(file.parent)):
        return copies
    for suffix in _SUFFIXES:
        found = sorted(
            file
            for file in folder.rglob(f"*{suffix}")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )
        if suffix == ".json":  # others hold prompts, captions or settings
            found = [file for file in found if split_of(Path(file.name)) is not None]
        if found:
            return found
    return []


def _copy(folder: Path, columns: Columns | None, shared: Shared) -> Rows | None:
    """The rows of a folder that `datasets` wrote; None if it is a file."""
    if not is_copy(folder):
        return None
    table = CopiedTable(folder)
    return _mapped(table, columns, shared) or _refuse(table)


def _open(file: Place, columns: Columns | None, shared: Shared, place: str) -> Rows:
    match file.suffix.lower():
        case ".parquet":
            groups = parquet.RowGroups(file, shared.recent)
            if columns is None and (native := parquet.native_rows(groups)) is not None:
                return native
            return _mapped(groups, columns, shared) or pickapic_rows(groups)
        case ".tar":
            samples = TarSamples(file, shared.recent)
            return _mapped(samples, columns, shared, WEBDATASET) or _refuse(samples)
        case ".jsonl" if isinstance(file, Path):
            lines = JsonLines(file, shared.recent)
            if columns is None and FORMS & set(lines.names):
                return JsonlRows(lines)
            return _mapped(lines, columns, shared) or JsonlRows(lines)
        case ".json" if isinstance(file, Path):
            return _json(file, columns, shared)
        case other:
            raise DataError(f"{place}{file}: unknown file type, got {other!r}. Known: {_KNOWN}.")


def _json(file: Path, columns: Columns | None, shared: Shared) -> Rows:
    entries = json_entries(file)
    if columns is None and labelstudio.is_export(entries):
        table, columns = JsonList(file, entries, labelstudio.row_of), labelstudio.COLUMNS
    else:
        table = JsonList(file, entries)
    return _mapped(table, columns, shared) or _refuse(table)


def _mapped(
    table: Table, columns: Columns | None, shared: Shared, layouts: Sequence[Layout] = PUBLISHED
) -> Rows | None:
    """The rows by the given columns, or by a known layout; None if it is not known."""
    absent: Sequence[str] = ()
    if columns is None and (layout := layout_of(table, layouts)) is not None:
        columns, absent = layout.columns, layout.absent
    return None if columns is None else ColumnRows(grouped(table, columns, shared), columns, absent=absent)


def _refuse(table: Table) -> NoReturn:
    raise LayoutError(
        f"{table.path}: unknown layout, got {', '.join(table.names)}. "
        "Say with `data.columns` (typed: `--column`) what these mean."
    )


def _unreadable(path: Path, error: OSError, where: str | None) -> DataError:
    place = f"{where}: " if where else ""
    return DataError(f"{place}{path}: cannot be read ({error.strerror or error}).")


def _of_split(dataset: Dataset, split: str) -> Dataset:
    if any(header.split == split for header in dataset.headers):
        broken = {at for at, h in enumerate(dataset.headers) if h.error is not None and h.split is None}
        return dataset.select(at for at, h in enumerate(dataset.headers) if h.split == split or at in broken)
    known = sorted({header.split for header in dataset.headers if header.split is not None})
    if not known:
        raise DataError(
            f"{dataset.path}: no row has a split, got split {split!r}. "
            f"Make splits with `penchant data split`, or leave the split out."
        )
    raise DataError(f"{dataset.path}: unknown split {split!r}. Known: {', '.join(known)}.")
