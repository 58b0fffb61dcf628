"""A pipeline folder on disk: what it names, whether it is whole and safe, and copies of its parts."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from penchant import hub
from penchant.errors import ModelError

INDEX: Final = "model_index.json"
UNUSED_PARTS: Final = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Parts of a pipeline that are never loaded, and so may be missing."""

CONFIGURATION: Final = ("json", "txt", "jinja")
"""Ends of the names of configurations, vocabularies and chat templates."""
SECOND_COPIES: Final = ("*.fp16.*", "*.fp16-*", "*.bf16.*", "*.bf16-*", "*non_ema*")
"""Files of weights beside those that are loaded, in another precision or as they were before averaging."""
CARD: Final = "README.md"
"""The model's card, which says its licence."""

_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_VARIANT: Final = re.compile(r"[^.]+\.([^.]+?)(-\d+-of-\d+)?\.safetensors")
"""Names of weights in a second precision, or without moving average, whole or in shards."""


def downloaded(model: str, where: str, *, weights: bool = True) -> Path:
    """Folder of a pipeline on the hub, with what its index names and no more.

    A repository may hold other forms and versions of the same weights beside these parts.

    Args:
        model: `owner/name`, or `owner/name@revision`.
        where: Place of the name, for messages.
        weights: False leaves them out.

    Raises:
        ModelError: It cannot be had, or is no pipeline in diffusers' form.
    """
    folder = hub.download(model, where, wanted=[INDEX])
    if not (folder / INDEX).is_file():
        raise ModelError(
            f"{where}: {model} on the hub is no pipeline in diffusers' form, it has no {INDEX}. Give one "
            "that has, or download a checkpoint of one file and give its path."
        )
    parts = [part for part in parts_of(index_of(folder, where)) if part not in UNUSED_PARTS]
    suffixes = (*CONFIGURATION, "safetensors") if weights else CONFIGURATION
    files = [INDEX, CARD, *(f"{part}/*.{suffix}" for part in parts for suffix in suffixes)]
    hub.download(model, where, wanted=files, unwanted=SECOND_COPIES)
    tokenizers = [folder / part for part in parts if part.startswith("tokenizer")]
    bare = [
        t.name for t in tokenizers if not any((t / f).is_file() for f in ("tokenizer.json", "vocab.json"))
    ]
    if bare:
        hub.download(model, where, wanted=[f"{name}/*.model" for name in bare])
    return folder


def index_of(folder: Path, where: str) -> dict[str, Any]:
    """The content of model_index.json: the class of the pipeline and of each part."""
    path = folder / INDEX
    if not path.is_file():
        raise ModelError(
            f"{where}: {folder} is not a pipeline folder: {INDEX} is missing. Give the folder that holds "
            f"{INDEX} and a folder for each part, such as unet/ or transformer/, vae/, text_encoder/ and "
            "scheduler/."
        )
    return json_of(path, where)


def check(folder: Path, where: str) -> None:
    """A folder is a whole pipeline with safe weights.

    Raises:
        ModelError: If a part is missing, incomplete, damaged, or holds weights in pickle form.
    """
    for part in parts_of(index_of(folder, where)):
        if part not in UNUSED_PARTS:
            _check_part(folder / part, where)


def copy_other_parts(source: Path, target: Path, *, trained: str) -> None:
    """Copy all parts that a pipeline names but the trained one.

    Of their weights, the safetensors that are loaded: no pickles, no copies in another precision. Parts
    that are never loaded are left out, and named as empty in the copy's index.

    Args:
        source: The pipeline folder.
        target: The new folder; it gets everything but the trained part.
        trained: Name of the trained part.
    """
    target.mkdir(parents=True)
    index = index_of(source, str(source))
    ignored = shutil.ignore_patterns(*SECOND_COPIES, *(f"*{suffix}" for suffix in _PICKLES))
    for part in parts_of(index):
        if part in UNUSED_PARTS:
            index[part] = [None, None]
        elif part != trained:
            shutil.copytree(source / part, target / part, ignore=ignored)
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def parts_of(index: dict[str, Any]) -> list[str]:
    """Names of the parts that are there: an empty one is [null, null], an option no list of two names."""
    return [
        name for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and name[0] != "_"
    ]  # fmt: skip


def json_of(path: Path, where: str) -> dict[str, Any]:
    """The object that a file of a pipeline folder holds."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}: {path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{where}: {path} must hold a JSON object, got {type(content).__name__}.")
    return content


def _check_part(part: Path, where: str) -> None:
    """A part exists, has its config, and its weights, if it has any, are whole safetensors."""
    if not part.is_dir():
        raise ModelError(
            f"{where}: half a pipeline folder: {part.name}/ is named in {INDEX} but missing. "
            "Download the folder again."
        )
    if part.name not in ("unet", "transformer", "vae") and not part.name.startswith("text_encoder"):
        return
    if not (part / "config.json").is_file():
        raise ModelError(f"{where}: half a pipeline folder: {part.name}/config.json is missing.")
    for shards in part.glob("*.safetensors.index.json"):
        for name in sorted(set(json_of(shards, where).get("weight_map", {}).values())):
            if not (part / name).is_file():
                raise ModelError(
                    f"{where}: half a pipeline folder: {part.name}/{name} is named in {shards.name} but "
                    "missing. Download the folder again."
                )
    weights = list(part.glob("*.safetensors"))
    for path in weights:
        _check_whole(path, where)
    if all(_VARIANT.fullmatch(path.name) for path in weights):
        raise _without_weights(part, where)


def _without_weights(part: Path, where: str) -> ModelError:
    """Why the weights of a part are none that are loaded, and what to do."""
    variants = [found[1] for path in part.iterdir() if (found := _VARIANT.fullmatch(path.name))]
    if variants:
        return ModelError(
            f"{where}: {part.name}/ has weights of the variant {min(variants)!r} alone, which are not "
            f"loaded. Load the pipeline once with diffusers and variant={min(variants)!r}, call "
            "save_pretrained, and give that folder."
        )
    pickled = [path.name for path in part.iterdir() if path.suffix in _PICKLES]
    if pickled:
        return ModelError(
            f"{where}: {part.name}/{pickled[0]} is a pickle file, which can run code when it is loaded; "
            "refused. Convert it once, where you trust it: load the pipeline with diffusers and call "
            "save_pretrained(folder, safe_serialization=True)."
        )
    return ModelError(
        f"{where}: half a pipeline folder: {part.name}/ has no safetensors weights. Download the folder "
        "again, or take a revision that has them. A model that has them as a variant alone "
        "(*.fp16.safetensors) must be loaded once with diffusers and variant='fp16', and saved with "
        "save_pretrained."
    )


def _check_whole(weights: Path, where: str) -> None:
    """The header of a weight file is sound and the file as long as it says."""
    try:
        with safe_open(weights, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{where}: {weights.parent.name}/{weights.name} is damaged ({error}). Download the folder again."
        ) from error
