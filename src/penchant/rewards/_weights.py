"""Folders of scorers: found, checked, and known by a hash; weights are safetensors or refused."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from safetensors import SafetensorError

from penchant import hub
from penchant.errors import ModelError
from penchant.numerics import accelerator_or_cpu

WANTED: Final = ("*.json", "*.txt", "*.safetensors")
"""Files that are fetched from the hub; folders in a repository are not."""

Loaded = TypeVar("Loaded")


@cache
def folder_of(model: str, where: str) -> Path:
    """Folder of a scorer or of a tokenizer.

    Args:
        model: A folder, or `owner/name@revision` on the hub.
        where: Reward and option, for messages.

    Raises:
        ModelError: It is missing or cannot be downloaded.
    """
    folder = Path(model)
    if not folder.is_dir() and hub.is_name(model):
        folder = hub.download(model, where, wanted=WANTED)
    if not folder.is_dir():
        raise ModelError(f"{where}: no such folder, got {model!r}. Give a folder, or owner/name on the hub.")
    return folder


@cache
def version_of(where: str, *models: str) -> str:
    """First 16 hex digits of the hash of each folder, joined by a plus sign."""
    return "+".join(hub.model_hash(folder_of(model, where))[:16] for model in models)


def version_with_tokenizer(where: str, model: str, tokenizer: str, *, usual: str) -> str:
    """Hash of the model, and of a tokenizer that is neither its own nor the usual one.

    Args:
        where: Reward, for messages.
        model: Folder or name of the model.
        tokenizer: The same of the tokenizer.
        usual: The tokenizer that the reward takes unless told otherwise.
    """
    own = version_of(f"{where}: model", model)
    if tokenizer in (model, usual):
        return own
    return f"{own}+{version_of(f'{where}: tokenizer', tokenizer)}"


def weights_of(folder: Path, where: str, *, remedy: str) -> Path:
    """The folder again, if it has weights as safetensors.

    Args:
        folder: Folder of a scorer.
        where: Reward and option, for messages.
        remedy: How to get such weights, a sentence.

    Raises:
        ModelError: It has none, or in pickle form alone.
    """
    if any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
    found = f"only {pickled[0]}, a pickle, which can run code when it is loaded" if pickled else "none"
    raise ModelError(f"{where}: {folder} needs weights as .safetensors, has {found}. {remedy}")


def loaded(load: Callable[[], Loaded], folder: Path, where: str) -> Loaded:
    """What `load` gives; a folder that transformers cannot read is one sentence."""
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{where}: {folder} cannot be loaded ({reason}). Download or convert it again."
        ) from error


def frozen(module: Any) -> Any:
    """The module in float32 on the accelerator, without gradients and dropout."""
    return module.requires_grad_(False).eval().float().to(accelerator_or_cpu())
