"""Model families: one module each, found by the class that a model folder names in its own config."""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from penchant.errors import ModelError

SHIPPED: Final = {"emoji": Path(__file__).parents[1] / "assets" / "emoji"}
"""Models that come with the library, by name."""


UNUSED_PARTS: Final = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Parts of a pipeline that are never loaded, and so may be missing."""


def quiet() -> None:
    """Silence the progress bars and the notes on optional packages of diffusers and transformers."""
    for library in ("diffusers", "transformers"):
        module = import_module(f"{library}.utils.logging")
        module.set_verbosity_error()
        module.disable_progress_bar()


def resolve(model: str, *, where: str = "model") -> Path:
    """Folder of a shipped model or of a path; checks that it is a whole pipeline with safe weights.

    Raises:
        ModelError: If the folder is missing, incomplete, or holds weights in pickle form.
    """
    folder = SHIPPED.get(model, Path(model))
    if not folder.is_dir():
        raise ModelError(
            f"{where}: no model folder {model!r}. Give a folder written by save_pretrained, or one of the "
            f"shipped models: {', '.join(SHIPPED)}."
        )
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{where}: {folder} is not a pipeline folder: model_index.json is missing. Give the folder that "
            "holds model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    for part, entry in _index(index, where).items():
        named = isinstance(entry, list) and entry[0] is not None
        if named and not part.startswith("_") and part not in UNUSED_PARTS:
            _check_part(folder / part, where)
    return folder


def load(model: str, *, where: str = "model") -> Any:
    """Load a shipped model or a pipeline folder: networks, encoders and noise process of its family.

    Raises:
        ModelError: As `resolve` and `family_of`.
    """
    folder = resolve(model, where=where)
    return family_of(folder, where=where).load(folder)


def family_of(folder: Path, *, where: str = "model") -> ModuleType:
    """The family module that loads a pipeline folder.

    Raises:
        ModelError: If no family handles the pipeline's class; names the supported ones.
    """
    quiet()
    wanted = _index(folder / "model_index.json", where).get("_class_name")
    modules = [import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name[0] != "_"]
    handled = {module.PIPELINE: module for module in modules if hasattr(module, "PIPELINE")}
    if wanted not in handled:
        raise ModelError(
            f"{where}: {folder} holds a {wanted}, which no family loads. Supported: {', '.join(handled)}."
        )
    return handled[wanted]


def _index(path: Path, where: str) -> dict[str, object]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}: {path} cannot be read as JSON: {error}.") from error
    if not isinstance(index, dict):
        raise ModelError(f"{where}: {path} must hold a JSON object, got {type(index).__name__}.")
    return index


def _check_part(part: Path, where: str) -> None:
    """A part exists, has its config, and its weights, if it has any, are whole safetensors."""
    if not part.is_dir():
        raise ModelError(
            f"{where}: half a pipeline folder: {part.name}/ is named in model_index.json but missing. "
            "Download the folder again."
        )
    if part.name in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2"):
        if not (part / "config.json").is_file():
            raise ModelError(f"{where}: half a pipeline folder: {part.name}/config.json is missing.")
        if weights := list(part.glob("*.safetensors")):
            for path in weights:
                _check_whole(path, where)
            return
        pickled = [path.name for path in part.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickled:
            raise ModelError(
                f"{where}: {part.name}/{pickled[0]} is a pickle file, which can run code when it is loaded; "
                "refused. Convert it once, where you trust it: load the pipeline with diffusers and call "
                "save_pretrained(folder, safe_serialization=True)."
            )
        raise ModelError(f"{where}: half a pipeline folder: {part.name}/ has no safetensors weights.")


def _check_whole(weights: Path, where: str) -> None:
    """The header of a weight file is sound and the file as long as it says."""
    try:
        with safe_open(weights, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{where}: {weights.parent.name}/{weights.name} is damaged ({error}). Download the folder again."
        ) from error
