"""Model families: one module each, found by the class that a model folder names in its own config."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Final

import torch

from penchant import hub
from penchant.errors import ModelError
from penchant.families import _folder, _single_file
from penchant.families._family import PipelineFamily
from penchant.families._folder import copy_other_parts
from penchant.families._pipeline import Loading, Part
from penchant.families._tokens import PART as TEXT_ENCODER
from penchant.families._tokens import apart

__all__ = [
    "SHIPPED",
    "TEXT_ENCODER",
    "Part",
    "PipelineFamily",
    "apart",
    "copy_other_parts",
    "family_of",
    "hub_repository",
    "load",
    "load_folder",
    "noise_span",
    "quiet",
    "resolve",
]

SHIPPED: Final = {"emoji": Path(__file__).parents[1] / "assets" / "emoji"}
"""Models that come with the library, by name."""


def quiet() -> None:
    """Silence the progress bars and the notes on optional packages of diffusers and transformers."""
    for library in ("diffusers", "transformers"):
        module = import_module(f"{library}.utils.logging")
        module.set_verbosity_error()
        module.disable_progress_bar()


def resolve(model: str, *, where: str = "model") -> Path:
    """Folder of a model; checks that it is a whole pipeline with safe weights.

    Args:
        model: A shipped name; a folder; `owner/name` on the hub, with `@revision` if wanted, which is
            downloaded; or a single file, with `@configuration` if wanted, which is written out as a folder.
        where: Place of the name, for messages.

    Raises:
        ModelError: If it is missing, cannot be downloaded, is incomplete, or has weights in pickle form.
    """
    folder = SHIPPED.get(model, Path(model))
    if _single_file.is_name(model):
        quiet()
        folder = _single_file.unpacked(model, where)
    elif not folder.exists() and hub.is_name(model):
        folder = _folder.downloaded(model, where)
    if not folder.is_dir():
        raise ModelError(
            f"{where}: no model folder {model!r}. Give a folder written by save_pretrained, a .safetensors "
            "file, the name of a model on the hub (owner/name@revision), or one of the shipped models: "
            f"{', '.join(SHIPPED)}."
        )
    _folder.check(folder, where)
    return folder


def hub_repository(model: str) -> str | None:
    """`owner/name` of a model that `resolve` takes from the hub; None for a folder or a shipped one."""
    if model in SHIPPED or Path(model).exists() or not hub.is_name(model):
        return None
    return model.partition("@")[0]


def single_file(model: str) -> tuple[str, str] | None:
    """Path and configuration (empty if none is named) of a single-file checkpoint; None for other models."""
    return _single_file.split(model) if _single_file.is_name(model) else None


def load(model: str, *, where: str = "model") -> PipelineFamily:
    """Load a model, named as for `resolve`: networks, encoders and noise process of its family.

    Raises:
        ModelError: As `resolve` and `family_of`.
    """
    return load_folder(resolve(model, where=where), where=where)


def load_folder(
    folder: Path,
    *,
    where: str = "model",
    part: Part | None = None,
    dtype: torch.dtype = torch.float32,
    denoiser: torch.dtype | None = None,
) -> PipelineFamily:
    """Load a folder that `resolve` has found.

    Args:
        folder: The folder.
        where: Place of its name, for messages.
        part: The only part whose weights are loaded, so that only it can be used; None is everything.
        dtype: Type of the weights in memory.
        denoiser: Type of the denoiser's weights; that of all others if None.

    Raises:
        ModelError: As `family_of`, or if diffusers cannot load it, or its family not train it.
    """
    module = family_of(folder, where=where)
    try:
        return module.load(folder, Loading(part=part, dtype=dtype, denoiser=denoiser))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def family_of(folder: Path, *, where: str = "model") -> ModuleType:
    """The family module that loads a pipeline folder.

    Raises:
        ModelError: If no family handles the pipeline's class; names the supported ones.
    """
    quiet()
    wanted = _folder.index_of(folder, where).get("_class_name")
    modules = [import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name[0] != "_"]
    handled = {module.PIPELINE: module for module in modules if hasattr(module, "PIPELINE")}
    if not isinstance(wanted, str) or wanted not in handled:  # a pipeline with code of its own has a list
        raise ModelError(
            f"{where}: {folder} holds a {wanted}, which no family loads. Supported: {', '.join(handled)}."
        )
    return handled[wanted]


def noise_span(folder: Path, *, where: str = "model") -> float:
    """`DiffusionFamily.noise_span` of the model in a folder, which is not loaded.

    Raises:
        ModelError: As `family_of`.
    """
    return getattr(family_of(folder, where=where), "NOISE_SPAN", 1.0)
