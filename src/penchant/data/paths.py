"""Paths that come out of a data file: kept inside its folder."""

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from penchant.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_MAX_MEMBER = 2**28
"""Bytes that one image in a zip file may unpack to."""

_UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What `zipfile` raises for damaged data; a RuntimeError if it is encrypted or packed in an unknown way."""


class Place(Protocol):
    """A file as far as the readers of rows need it: a `Path`, or one of the hub that is not downloaded."""

    @property
    def name(self) -> str:
        """Name without folder."""
        ...

    @property
    def suffix(self) -> str:
        """End of the name, with its dot."""
        ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it to be read."""
        ...

    def stat(self) -> Any:
        """Its size, as `st_size`."""
        ...


def inside(folder: Path, written: str, *, where: str) -> Path:
    """The existing file that a data file names, relative to its folder.

    Args:
        folder: Folder that the file has to lie in; links are followed before this is judged.
        written: Path as the data file has it.
        where: Place in the data file, for messages.

    Raises:
        DataError: The path leads out of the folder, or there is no such file.
    """
    path = folder / written
    try:
        contained = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a name too long, links in a circle
        raise DataError(f"{where}: not a path, got {written!r} ({error}).") from error
    if not contained:
        raise DataError(
            f"{where}: path leads out of the folder, got {written!r}. "
            f"Write paths relative to {folder} and keep the files in it."
        )
    if not path.is_file():
        raise DataError(f"{where}: no such file, got {written!r}. Paths are relative to {folder}.")
    return path


def image_at(table: Place, written: str, *, where: str) -> bytes | Path:
    """The image that a table names: a file, or a member of a zip file that lies in place of its folder.

    Searched, in this order: the folder of the table, `images/` in it, and the folder in it that is named like
    the table; in each of them `a/b.png` is also found as `b.png` in `a.zip`.

    Args:
        table: The file that has the path.
        written: The path in it.
        where: Place of the path, for messages.

    Raises:
        DataError: The path leads out of the folder of the table, or there is no such image.
    """
    if not isinstance(table, Path):
        raise DataError(
            f"{where}: an image in a file of its own cannot be streamed from the hub. Download the data set "
            "and give its folder."
        )
    folder = table.parent
    for base in ("", "images", table.stem):
        place = folder / base / written
        try:
            if place.is_file():
                break
            archive = place.parent.with_suffix(".zip")
            if place.parent != folder and archive.is_file():
                return _member(inside(folder, str(archive.resolve()), where=where), place.name, where=where)
        except (OSError, ValueError):  # not a path at all; `inside` says so
            break
    else:
        base = ""
    return inside(folder, f"{base}/{written}" if base else written, where=where)


def _member(archive: Path, name: str, *, where: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            if (size := opened.getinfo(name).file_size) > _MAX_MEMBER:
                raise DataError(f"{where}: {name!r} in {archive} is too large, got {size} bytes.")
            return opened.read(name)
    except KeyError as error:
        raise DataError(f"{where}: no image {name!r} in {archive}.") from error
    except _UNREADABLE as error:
        raise DataError(
            f"{where}: cannot read {name!r} in {archive} ({error}). Copy the archive again, or unpack it."
        ) from error


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; hidden files are left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."
    )
