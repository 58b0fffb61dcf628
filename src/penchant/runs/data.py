"""From a run file to its data: where it lies, what its columns mean, and how it becomes groups."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from penchant import families
from penchant.data import hub, store
from penchant.data.columns import Columns
from penchant.data.dataset import Dataset
from penchant.data.rows import Example, GroupRules
from penchant.data.stream import Stream, open_remote_stream, open_stream
from penchant.hub import is_name
from penchant.runs import columns
from penchant.runs.schema import RunFile
from penchant.shapes.grouping import PairRule, UnaryRule

SHIPPED_DATA: Final = {"emoji-pairs": Path(families.__file__).parents[1] / "assets" / "emoji-pairs.parquet"}
"""Data sets that come with the library, by name."""


def data_of(run: RunFile, split: str | None, *, where: str) -> Dataset:
    """The stored data of a run, one split of it."""
    path, meant = data_place(run, where=where), columns_of(run, where=where)
    return store.read(path, split=split, columns=meant, where=f"{where}: data.path")


def stream_of(run: RunFile, split: str | None, *, where: str) -> Stream:
    """The data of a run to be streamed, one split of it; a data set of the hub stays there."""
    meant, place = columns_of(run, where=where), f"{where}: data.path"
    if is_remote(run):
        data = hub.remote(run.data.path, config=run.data.config, where=place)
        return open_remote_stream(data, split=split, columns=meant, where=place)
    return open_stream(data_place(run, where=where), split=split, columns=meant, where=place)


def examples_of(run: RunFile, split: str | None, *, where: str) -> Iterable[Example]:
    """The rows of one split, read as the training reads them, anew each time they are gone through.

    A data set of the hub that is streamed stays there; streamed rows that are broken are left out.
    """
    if run.data.streaming:
        return _InFileOrder(stream_of(run, split, where=where))
    return data_of(run, split, where=where)


@final
@dataclass(frozen=True, slots=True)
class _InFileOrder:
    stream: Stream

    def __iter__(self) -> Iterator[Example]:
        return self.stream.in_file_order()


def prompts_of(run: RunFile, split: str | None, *, where: str) -> list[str]:
    """The prompts of the same rows; of tables, images are not read for them."""
    if run.data.streaming:
        return list(stream_of(run, split, where=where).prompts())
    return [header.prompt for header in data_of(run, split, where=where).headers]


def is_remote(run: RunFile) -> bool:
    """True if the data is a data set of the hub, and no file or folder here."""
    return _is_remote(run.data.path)


def _is_remote(name: str) -> bool:
    return name not in SHIPPED_DATA and not Path(name).exists() and is_name(name)


def data_place(run: RunFile, *, where: str) -> Path:
    """File or folder of the data, downloaded if it is on the hub."""
    return located(run.data.path, config=run.data.config, where=f"{where}: data.path")


def located(name: str, *, config: str | None = None, where: str) -> Path:
    """File or folder of a data set: a shipped one, one here, or one of the hub, which is downloaded.

    Args:
        name: As `data.path` of a run file.
        config: Folder of it to take.
        where: Place of the name, for messages.
    """
    if _is_remote(name):
        return hub.download(name, config=config, where=where)
    path = SHIPPED_DATA.get(name, Path(name))
    return path if config is None else path / config


def columns_of(run: RunFile, *, where: str) -> Columns | None:
    """What the columns of the data mean; None where that is to be found out."""
    if run.data.columns is None:
        return None
    return columns.columns_of(run.data.columns, where=where, place=["data", "columns"])


def rules_of(run: RunFile) -> GroupRules:
    """How candidates become groups."""
    data = run.data
    return GroupRules(
        pairs=PairRule(data.pairs),
        min_gap=data.min_gap,
        labels=UnaryRule(data.labels),
        top_k=data.top_k,
        min_size=data.min_size,
    )
