"""Checkpoints in one safetensors file, in the layout of their first release: written out as a folder, once.

Such a file holds weights alone. What else a pipeline needs (configurations, vocabularies) comes from a folder
or from the hub, and is never guessed where it changes what the weights mean.
"""

import hashlib
import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import diffusers
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open
from torch import nn

from penchant import hub
from penchant.errors import ModelError
from penchant.families import _folder
from penchant.files import give_usual_rights

logger = logging.getLogger(__name__)

SUFFIX: Final = ".safetensors"
CACHE: Final = Path(HF_HOME) / "penchant" / "single-files"
"""Where the folders are kept; each may be deleted and is then written anew."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the files of one family name their weights.

    Attributes:
        model: Name of the family, for messages.
        mark: Beginning of the names of a text encoder, which no other family has.
        pipeline: Class of its pipeline.
        config: Model on the hub whose configuration all files of the family share; None if they differ.
        unused: Parts of the pipeline that are never loaded.
    """

    model: str
    mark: str
    pipeline: Any
    config: str | None
    unused: tuple[str, ...]


LAYOUTS: Final = (
    Layout(
        model="Stable Diffusion 1.x",
        mark="cond_stage_model.transformer.",
        pipeline=diffusers.StableDiffusionPipeline,
        config="stable-diffusion-v1-5/stable-diffusion-v1-5",
        unused=("safety_checker", "feature_extractor", "image_encoder"),
    ),
    Layout(
        model="Stable Diffusion 2.x",
        mark="cond_stage_model.model.",
        pipeline=diffusers.StableDiffusionPipeline,
        config=None,  # epsilon or v: most files do not say
        unused=("safety_checker", "feature_extractor", "image_encoder"),
    ),
    Layout(
        model="Stable Diffusion XL",
        mark="conditioner.embedders.1.",
        pipeline=diffusers.StableDiffusionXLPipeline,
        config="stabilityai/stable-diffusion-xl-base-1.0",
        unused=("feature_extractor", "image_encoder"),
    ),
)


_PREDICTIONS: Final = {"v": "v_prediction", "epsilon": "epsilon"}
"""What the notes of a file call a prediction type, and what a scheduler's configuration calls it."""


def is_name(model: str) -> bool:
    """True for `FILE.safetensors` and `FILE.safetensors@CONFIGURATION`."""
    return split(model)[0].endswith(SUFFIX)


def unpacked(model: str, where: str) -> Path:
    """Pipeline folder of a single-file checkpoint; written at the first use.

    Args:
        model: `FILE.safetensors`, or `FILE.safetensors@CONFIGURATION` with a pipeline folder, which needs no
            weights, or a model on the hub, `owner/name@revision`.
        where: Place of the name, for messages.

    Raises:
        ModelError: The file is missing, damaged, of a family that is not read, or does not fit the
            configuration; or the configuration cannot be had.
    """
    name, config = split(model)
    file = Path(name)
    names, notes = _header(file, where)
    layout = _layout(file, names, where)
    if not config and layout.config is None:
        raise ModelError(
            f"{where}: {file} holds {layout.model}, of which some predict epsilon and some v. Name a folder "
            f"or model of the hub that says which: {file}@FOLDER."
        )
    source = _configuration(config or str(layout.config), where=f"{where}: configuration of {file.name}")
    kind = _folder.index_of(source, where).get("_class_name")
    if kind != layout.pipeline.__name__:
        raise ModelError(
            f"{where}: {file} holds {layout.model}, but {source} is the configuration of a {kind}. Name the "
            f"folder of a {layout.pipeline.__name__}: {file}@FOLDER."
        )
    _require_agreement(file, names, notes, source, where)
    target = CACHE / f"{file.stem}-{_fingerprint(file, source)}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(f"{target}.lock"):  # of several processes one writes
        if not target.is_dir():
            _write(layout, file, source, target, where)
    return target


def split(model: str) -> tuple[str, str]:
    """File and configuration; a path may hold an @ before its end in .safetensors."""
    end = model.find(f"{SUFFIX}@")
    return (model, "") if end < 0 else (model[: end + len(SUFFIX)], model[end + len(SUFFIX) + 1 :])


def _header(file: Path, where: str) -> tuple[list[str], dict[str, str]]:
    """Names of the weights in a file, and its notes."""
    if not file.is_file():
        raise ModelError(f"{where}: no file {str(file)!r}. Check the path.")
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys()), opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{where}: {file} is damaged ({error}). Download it again.") from error


def _layout(file: Path, names: Sequence[str], where: str) -> Layout:
    for layout in LAYOUTS:
        if any(name.startswith(layout.mark) for name in names):
            return layout
    supported = ", ".join(layout.model for layout in LAYOUTS)
    raise ModelError(
        f"{where}: {file} is no checkpoint of a whole model that is read from a single file, got weights "
        f"such as {min(names, default='none')!r}. Supported: {supported}, with their text encoders. Give "
        "the model as a folder in diffusers' form, or as owner/name on the hub."
    )


def _require_agreement(
    file: Path, names: Sequence[str], notes: Mapping[str, str], source: Path, where: str
) -> None:
    """Refuse a file that contradicts the configuration in its noise or prediction; many say nothing of them.

    Marks are empty weights, as ComfyUI reads and writes them, before the notes of trainers.
    """
    if edm := next((name for name in sorted(names) if name.startswith("edm_")), None):
        raise ModelError(
            f"{where}: {file} holds a model of continuous noise levels (EDM; it is marked by {edm!r}), as "
            "Playground 2.5 and CosXL, which is not supported. Give a model that predicts epsilon or v."
        )
    noted = notes.get("modelspec.prediction_type") or notes.get("modelspec.predict_key", "")
    predicted = "v_prediction" if "v_pred" in names else _PREDICTIONS.get(noted)
    scheduler = _folder.json_of(source / "scheduler" / "scheduler_config.json", where)
    configured = scheduler.get("prediction_type", "epsilon")
    if predicted is not None and predicted != configured:
        raise ModelError(
            f"{where}: {file} says that its prediction type is {predicted!r}, but the scheduler of {source} "
            f"has {configured!r}. Name a folder or model of the hub that fits: {file}@FOLDER."
        )
    if "ztsnr" in names and not scheduler.get("rescale_betas_zero_snr", False):
        raise ModelError(
            f"{where}: {file} says that its noise ends in pure noise (it is marked by 'ztsnr'), but the "
            f"scheduler of {source} has no rescale_betas_zero_snr. Name a folder or model of the hub that "
            f"fits: {file}@FOLDER."
        )


def _configuration(config: str, where: str) -> Path:
    folder = Path(config)
    if not folder.is_dir() and hub.is_name(config):
        return _folder.downloaded(config, where, weights=False)
    return folder


def _fingerprint(file: Path, source: Path) -> str:
    """Of what the folder is made from: the file's place, size and time, the content of the configuration."""
    found = file.resolve().stat()
    made_of = hashlib.blake2b(digest_size=8)
    made_of.update(f"{file.resolve()} {found.st_size} {found.st_mtime_ns} {diffusers.__version__}".encode())
    for path in sorted(path for path in source.rglob("*") if path.suffix in (".json", ".txt")):
        made_of.update(path.relative_to(source).as_posix().encode() + path.read_bytes())
    return made_of.hexdigest()


def _write(layout: Layout, file: Path, source: Path, target: Path, where: str) -> None:
    """Convert beside the target and move into place, so that a folder that is there is whole."""
    logger.info("%s: written out as a folder, %s", file, target)
    beside = target.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        pipeline = layout.pipeline.from_single_file(
            str(file), config=str(source), local_files_only=True, **dict.fromkeys(layout.unused)
        )
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module) and any(weight.is_meta for weight in part.parameters()):
                raise ValueError(f"weights of the {name} are missing")
        pipeline.save_pretrained(str(beside), safe_serialization=True)
        give_usual_rights(beside)
        beside.rename(target)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SingleFileComponentError) as error:
        raise ModelError(
            f"{where}: {file} cannot be read as {layout.model} with the configuration of {source} "
            f"({str(error).splitlines()[0]}). Name the folder or model of the hub that it was made from: "
            f"{file}@FOLDER."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
