"""Tar files in the form of WebDataset: neighbouring members with one key are one sample.

The key of a member is its path up to the first dot of the file name, the rest names a column. `KEY.json`
gives a column per key of its object, other text (`.txt`, `.caption`) is text, and all else is bytes. The
images `KEY.0.png`, `KEY.1.png`, ... are also there as one list, `images`.
"""

import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, final

from penchant.data.columns import row_or_error
from penchant.data.lines import object_of
from penchant.data.paths import IMAGE_SUFFIXES, Place
from penchant.data.recent import BLOCK_ROWS, Cuts, Recent
from penchant.errors import DataError

IMAGES = "images"
"""Column of the numbered images of a sample."""

_TEXTS = ("txt", "caption", "text")


@final
class TarSamples:
    """Samples of one tar file that is not compressed; a run of them is read when one is asked for.

    Only the headers of the members are read when the file is opened, and of them is kept where every 256th
    sample starts.

    Raises:
        DataError: The file is empty, compressed, cut off or not a tar file.
    """

    def __init__(self, path: Place, recent: Recent) -> None:
        """Walk through the headers of the members.

        Args:
            path: The file.
            recent: Runs of samples that were read last, of this and other files.
        """
        self.path, self.files, self._recent = path, (path,), recent
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file, got 0 bytes.")
        self.blocks: list[int] = []
        self._starts: list[int] = []
        found: dict[str, None] = {}
        described: list[tarfile.TarInfo] = []
        last = None
        for member, key, name in _members(path, 0):
            if key != last:
                last = key
                if not self.blocks or self.blocks[-1] == BLOCK_ROWS:
                    self.blocks.append(0)
                    self._starts.append(member.offset)
                self.blocks[-1] += 1
            if len(self.blocks) == 1:
                found[name] = None
                if _is_json(name):
                    described.append(member)
        if not self.blocks:
            raise DataError(f"{path}: no samples, got a tar file without files.")
        self._cuts = Cuts(self.blocks)
        self._described = self._merged(described)
        numbered = [IMAGES] if any(_number(name) is not None for name in found) else []
        self.names = [*numbered, *self._described, *(name for name in found if not _is_json(name))]

    def has_list(self, name: str) -> bool:
        """True if a column holds lists."""
        return name == IMAGES or isinstance(self._described.get(name), list)

    def light(self, names: Sequence[str]) -> Iterator[dict[str, Any] | DataError]:
        """All samples, one run after the other; a tar file has no columns to leave out."""
        return (row_or_error(self.row, position) for position in range(len(self._cuts)))

    def row(self, position: int) -> dict[str, Any]:
        """One sample.

        Raises:
            DataError: Its JSON or text cannot be read, or a numbered image is missing.
        """
        key, members = self._sample(position)
        where = f"{self.path}: sample {key!r}"
        row: dict[str, Any] = {}
        numbered: dict[int, bytes] = {}
        for name, content in members.items():
            if _is_json(name):
                row |= object_of(content, where=f"{where}: {name}")
            elif name.rpartition(".")[2].lower() in _TEXTS:
                row[name] = _text(content, where=f"{where}: {name}")
            else:
                row[name] = content
                if (number := _number(name)) is not None:
                    numbered[number] = content
        if numbered:
            if sorted(numbered) != list(range(len(numbered))):
                got = ", ".join(map(str, sorted(numbered)))
                raise DataError(f"{where}: images must be numbered 0, 1, ... without a gap, got {got}.")
            row[IMAGES] = [numbered[number] for number in range(len(numbered))]
        return row

    def where(self, position: int) -> str:
        """Place of a sample, for messages."""
        return f"{self.path}: sample {self._sample(position)[0]!r}"

    def _sample(self, position: int) -> tuple[str, dict[str, bytes]]:
        block, offset = self._cuts(position)
        return self._recent.get((self.path, block), lambda: self._block(block))[offset]

    def _block(self, block: int) -> tuple[list[tuple[str, dict[str, bytes]]], int]:
        samples: list[tuple[str, dict[str, bytes]]] = []
        size = 0
        with self.path.open("rb") as file:
            for member, key, name in _members(self.path, self._starts[block]):
                if not samples or samples[-1][0] != key:
                    if len(samples) == self.blocks[block]:
                        break
                    samples.append((key, {}))
                file.seek(member.offset_data)
                content = file.read(member.size)
                samples[-1][1][name] = content
                size += len(content)
        return samples, size

    def _merged(self, members: Sequence[tarfile.TarInfo]) -> dict[str, Any]:
        """The keys of all objects that can be read, each with its first value.

        Raises:
            DataError: There are some, but none can be read.
        """
        merged: dict[str, Any] = {}
        errors: list[DataError] = []
        with self.path.open("rb") as file:
            for member in members:
                file.seek(member.offset_data)
                try:
                    found = object_of(file.read(member.size), where=f"{self.path}: {member.name}")
                except DataError as error:
                    errors.append(error)
                else:
                    merged |= {name: value for name, value in found.items() if name not in merged}
        if members and len(errors) == len(members):
            raise errors[0]
        return merged


def _members(path: Place, offset: int) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """The files in a tar file from a byte on: header, key of the sample and name of the column."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                    key, name = _split(member.name)
                    if member.isfile() and name and not _is_hidden(member.name):
                        yield member, key, name
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: damaged, compressed or no tar file ({error}). Unpack it with gunzip, or copy it again."
        ) from error


def _split(name: str) -> tuple[str, str]:
    """Key of a member and name of its column."""
    folder, slash, base = name.rpartition("/")
    stem, _, column = base.partition(".")
    return f"{folder}{slash}{stem}", column


def _is_hidden(name: str) -> bool:
    """True for a member such as `._1.0.png`, which tar on macOS adds to `1.0.png`."""
    return name.rpartition("/")[2].startswith(".")


def _is_json(name: str) -> bool:
    return name.rpartition(".")[2].lower() == "json"


def _number(name: str) -> int | None:
    """The number of a numbered image, as of `0.png`; None for other columns."""
    number, _, kind = name.rpartition(".")
    return int(number) if number.isdecimal() and f".{kind.lower()}" in IMAGE_SUFFIXES else None


def _text(content: bytes, *, where: str) -> str:
    try:
        return content.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error.reason}).") from error
