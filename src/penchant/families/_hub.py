"""Pipelines of the Hugging Face hub, downloaded once: safetensors, configurations and vocabularies alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from penchant.errors import ModelError
from penchant.families._folder import INDEX, UNUSED_PARTS

WANTED: Final = [INDEX, *(f"*/*.{suffix}" for suffix in ("json", "txt", "safetensors"))]
"""Files of a pipeline folder; single-file checkpoints in the top folder are not among them."""
CONFIGURATION: Final = [pattern for pattern in WANTED if not pattern.endswith(".safetensors")]
"""The same without weights."""
UNWANTED: Final = ["*.fp16.*", "*.fp16-*", "*.bf16.*", "*non_ema*", *(f"{part}/*" for part in UNUSED_PARTS)]
"""Second copies of the weights in another precision, and parts that are never loaded."""

_NAME: Final = re.compile(r"(?P<owner>\w[\w.-]*)/(?P<name>\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def is_name(model: str) -> bool:
    """True for `owner/name` and `owner/name@revision`."""
    return _NAME.fullmatch(model) is not None


def download(model: str, where: str, *, wanted: Sequence[str] = WANTED) -> Path:
    """Folder of a hub model in the cache of huggingface_hub; what is there already is not fetched again.

    Args:
        model: `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.
        where: Place of the name, for messages.
        wanted: Patterns of the files.

    Raises:
        ModelError: It is gated, missing, has no such revision, or the hub cannot be reached.
    """
    parts = _NAME.fullmatch(model)
    assert parts is not None
    repository, revision = f"{parts['owner']}/{parts['name']}", parts["revision"]
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(wanted), ignore_patterns=UNWANTED
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
