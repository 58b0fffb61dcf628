"""Data sets of the Hugging Face hub: files of rows and images, downloaded once; code in them is never run."""

import re
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from penchant.data.paths import IMAGE_SUFFIXES
from penchant.errors import DataError

WANTED: Final = [f"*.{suffix}" for suffix in ("parquet", "tar", "jsonl", "json", "zip")] + [
    f"*{suffix}" for suffix in sorted(IMAGE_SUFFIXES)
]
"""Files of a data set that a reader may need; scripts are not among them."""

_NAME: Final = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def is_name(path: str) -> bool:
    """True for `owner/name` and `owner/name@revision`."""
    return _NAME.fullmatch(path) is not None


def download(name: str, *, config: str | None = None, where: str) -> Path:
    """Folder of a data set in the cache of huggingface_hub; what is there already is not fetched again.

    Args:
        name: `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.
        config: Folder of the data set that is wanted; all of it if None.
        where: Place of the name, for messages.

    Raises:
        DataError: It is missing or gated, has no such folder, or the hub cannot be reached.
    """
    parts = _NAME.fullmatch(name)
    assert parts is not None
    wanted = WANTED if config is None else [f"{config}/{pattern}" for pattern in WANTED]
    try:
        folder = Path(
            snapshot_download(
                parts["repository"], repo_type="dataset", revision=parts["revision"], allow_patterns=wanted
            )
        )
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"{where}: neither a file nor a folder here, and data set {name!r} cannot be had from the hub "
            f"({str(error).splitlines()[0]}). Check the name, the revision and the network; for a private or "
            "gated one log in with `hf auth login`."
        ) from error
    return folder if config is None else folder / config
