"""Files that are whole or not there, for all who may read what is new in their folder; and their hashes."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

PARTIAL: Final = ".partial"
"""How the names of unfinished files end."""


class Readable(Protocol):
    """A `Path`, or what is opened like one."""

    def open(self, mode: Literal["rb"]) -> Any:
        """Open it to be read; of the type no more is asked, as `typing.IO` leaves `readinto` out."""
        ...


def sha256(file: Readable) -> str:
    """SHA-256 over the bytes of a file, in hex; read in pieces, so that large files need no memory.

    Raises:
        OSError: It cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside a file, to write to; at the end it is on the disk and takes the file's place.

    If anything goes wrong, or the process is killed, the file is as it was before.

    Raises:
        OSError: The disk is full, the folder is missing or may not be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors writes for the owner alone
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or as it was before.

    Raises:
        OSError: As `replacing`.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def give_usual_rights(folder: Path) -> None:
    """Let whoever may read new files read those below a folder; libraries write some for the owner alone."""
    usual = 0o666 & ~_umask()
    for path in folder.rglob("*"):
        if path.is_file():
            with contextlib.suppress(PermissionError):  # some disks know no rights
                path.chmod(usual)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
