"""Data sets of the Hugging Face hub, downloaded once or read in pieces from afar; their code is never run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any, Final, Literal, TypeVar, final

from huggingface_hub import HfFileSystem, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from penchant.data.paths import IMAGE_SUFFIXES
from penchant.errors import DataError
from penchant.hub import repository_and_revision

WANTED: Final = [f"*.{suffix}" for suffix in ("parquet", "tar", "jsonl", "json", "zip")] + [
    f"*{suffix}" for suffix in sorted(IMAGE_SUFFIXES)
]
"""Files of a data set that a reader may need; scripts are not among them."""

Found = TypeVar("Found")


@final
@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the hub that is read in pieces over the network.

    Attributes:
        path: Its path in the file system, `datasets/owner/name@revision/...`.
        filesystem: That of the hub.
    """

    path: str
    filesystem: Any

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """Name without folder."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """End of the name, with its dot."""
        return PurePosixPath(self.path).suffix

    def below(self, root: str) -> PurePosixPath:
        """Its path in a folder."""
        return PurePosixPath(self.path.removeprefix(root).lstrip("/"))

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it to be read."""
        return self.filesystem.open(self.path, mode)

    def stat(self) -> Any:
        """Its size, as `st_size`."""
        return SimpleNamespace(st_size=self.filesystem.info(self.path)["size"])


@final
@dataclass(frozen=True, slots=True)
class RemoteData:
    """A data set of the hub that is not downloaded.

    Attributes:
        root: Its folder in the file system of the hub.
        files: All files in it and below, in the order of their paths.
    """

    root: str
    files: list[RemoteFile]


def download(name: str, *, config: str | None = None, where: str) -> Path:
    """Folder of a data set in the cache of huggingface_hub; what is there already is not fetched again.

    Args:
        name: `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.
        config: Folder of the data set that is wanted; all of it if None.
        where: Place of the name, for messages.

    Raises:
        DataError: It is missing or gated, has no such folder, or the hub cannot be reached.
    """
    repository, revision = repository_and_revision(name)
    wanted = WANTED if config is None else [f"{config}/{pattern}" for pattern in WANTED]
    folder = Path(
        _reached(
            name,
            where,
            lambda: snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=wanted
            ),
        )
    )
    return folder if config is None else folder / config


def remote(name: str, *, config: str | None = None, where: str) -> RemoteData:
    """The files of a data set that stays on the hub; arguments and errors are those of `download`."""
    (repository, revision), filesystem = repository_and_revision(name), HfFileSystem()
    root = f"datasets/{repository}"
    root += f"@{revision.replace('/', '%2F')}" if revision else ""
    root += f"/{config}" if config else ""
    paths = _reached(name, where, lambda: filesystem.find(root))
    return RemoteData(root, [RemoteFile(path, filesystem) for path in sorted(paths)])


def _reached(name: str, where: str, call: Callable[[], Found]) -> Found:
    try:
        return call()
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"{where}: neither a file nor a folder here, and data set {name!r} cannot be had from the hub "
            f"({str(error).splitlines()[0]}). Check the name, the revision and the network; for a private or "
            "gated one log in with `hf auth login`."
        ) from error
