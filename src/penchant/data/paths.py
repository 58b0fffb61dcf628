"""Paths that come out of a data file: kept inside its folder."""

from pathlib import Path

from penchant.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


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


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; hidden files are left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."
    )
