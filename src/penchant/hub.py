"""Model folders: downloaded once from the Hugging Face hub, and known by a hash of their content."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from penchant.errors import ModelError
from penchant.files import sha256

_HASHED: Final = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
_NAME: Final = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def is_name(name: str) -> bool:
    """True for `owner/name` and `owner/name@revision`, if a repository of the hub may be called so."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        return False
    try:
        validate_repo_id(parts["repository"])
    except HFValidationError:
        return False
    return True


def repository_and_revision(name: str) -> tuple[str, str | None]:
    """`owner/name` and the revision, None if there is none, of what `is_name` is true for."""
    parts = _NAME.fullmatch(name)
    assert parts is not None
    return parts["repository"], parts["revision"]


def download(model: str, where: str, *, wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Path:
    """Folder of a hub model in the cache of huggingface_hub; what is there already is not fetched again.

    Args:
        model: `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.
        where: Place of the name, for messages.
        wanted: Patterns of the files to fetch.
        unwanted: Patterns of files among them to leave out.

    Raises:
        ModelError: It is gated, missing, has no such revision, or the hub cannot be reached.
    """
    repository, revision = repository_and_revision(model)
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(unwanted)
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{where}: {repository} is gated. Accept its conditions on its page on the hub, then log in with "
            "`hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{where}: neither a folder nor a model on the hub, got {model!r}. Check the name; for a private "
            "model log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{where}: {repository} has no revision {revision!r}. Give a branch, a tag or a commit of it, as "
            "its page on the hub lists them."
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise ModelError(
            f"{where}: no folder {model!r} here, and the hub cannot be reached. Check the path or the "
            "network, or download the model where there is one and give its folder."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{where}: {repository} cannot be downloaded ({str(error).splitlines()[0]}). Try again; what has "
            "arrived is kept."
        ) from error
    return Path(folder)


def model_hash(folder: Path, parts: Sequence[str] = ("*",)) -> str:
    """SHA-256 over weights, configurations, vocabularies and templates of a model's folder, by relative path.

    Files are read in pieces, so that large weights need no memory.

    Args:
        folder: The model's folder.
        parts: Patterns of the files and folders in it that count.

    Raises:
        ModelError: A file cannot be read.
    """
    joined = hashlib.sha256()
    counted = (path for part in parts for top in folder.glob(part) for path in (top, *top.rglob("*")))
    files = {path for path in counted if path.is_file() and path.suffix in _HASHED}
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        joined.update(f"{_hash(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return joined.hexdigest()


def _hash(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise ModelError(
            f"{file}: cannot be read ({error.strerror}). Check the file and its rights."
        ) from None
