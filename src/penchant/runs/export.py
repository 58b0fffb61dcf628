"""A run's weights as a folder that other tools load, with a card of what they are."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import diffusers
import torch
from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file

from penchant import __version__, families
from penchant.errors import ModelError, RunFolderError
from penchant.files import give_usual_rights, sha256
from penchant.hub import model_hash
from penchant.runs.folder import RunFolder, write_json_atomically, writing
from penchant.runs.forms import Form
from penchant.runs.load import load
from penchant.runs.schema import RunFile
from penchant.runs.stored_lora import StoredLora
from penchant.training import checkpoint
from penchant.training.adapters import FILE

CARD: Final = "README.md"
LIST: Final = "export.json"
"""Names the files of an export with their hashes; by it, an earlier export is known and replaced."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export holds, for its card.

    Attributes:
        name: Title: of the folder, or `owner/name` of the repository that it goes to.
        form: What it is.
        base: Name of the base model on the hub; None if it is not from there.
        base_folder: Where the base model lies.
        part: Name of the trained network in its pipeline.
        weights: Name of the file of a LoRA; None for a pipeline.
        step: Steps that the weights were trained for.
        hashes: SHA-256 of each file by its name.
    """

    name: str
    form: Form
    base: str | None
    base_folder: Path
    part: str
    weights: str | None
    step: int
    hashes: Mapping[str, str]


Card = Callable[[RunFolder, Exported], str]
"""Writes the text of the card."""


def export(
    folder: RunFolder, *, form: Form, to: Path, card: Card, name: str | None = None, overwrite: bool = False
) -> Path:
    """Write the trained weights in one form, a card, and a list of the files.

    Of a run that has not finished, the newest checkpoint is taken.

    Args:
        folder: The run.
        form: What to write.
        to: The new folder.
        card: Writes the text of README.md.
        name: Title of the card; the folder's name if None.
        overwrite: Replace an earlier export in that folder; other files stay, and are never written over.

    Returns:
        The new folder.

    Raises:
        RunFolderError: The folder is in use, a file of yours has the name of a new one, or the run has no
            weights of this form yet.
        ModelError: The base model is missing or has changed, or the form cannot hold the LoRA.
    """
    run = load(folder.run_file)
    earlier = _earlier(to, overwrite=overwrite)
    base = families.resolve(run.model, where=f"{folder.run_file}: model")
    trained = _Trained.of(folder, run, base)
    with writing(to), _beside(to) as place:
        weights = trained.write(form, place)
        exported = Exported(
            name=name or to.resolve().name,
            form=form,
            base=families.hub_repository(run.model),
            base_folder=base,
            part=trained.part,
            weights=weights,
            step=trained.step,
            hashes=_hashes(place),
        )
        (place / CARD).write_text(card(folder, exported), encoding="utf-8")
        give_usual_rights(place)
        listed = {"penchant": __version__, "form": form, "step": trained.step, "files": _hashes(place)}
        _move(place, to, listed=listed, instead_of=earlier)
    return to


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """The weights of a run: of its end, or of its newest checkpoint."""

    folder: RunFolder
    run: RunFile
    base: Path
    base_hash: str
    part: str
    step: int
    checkpoint: Path | None

    @classmethod
    def of(cls, folder: RunFolder, run: RunFile, base: Path) -> "_Trained":
        known = folder.read_manifest() or {}
        complete = known.get("complete", False)
        place = checkpoint.latest(folder.checkpoints) if known and not complete else None
        if place is None and not complete:
            raise RunFolderError(
                f"{folder.path}: the training has not finished and has no checkpoint yet. Go on with "
                "`penchant train RUN.yaml --resume`."
            )
        part = next(name for name in ("unet", "transformer") if (base / name).is_dir())
        step = run.training.steps if place is None else int(place.name.rpartition("-")[2])
        return cls(
            folder=folder,
            run=run,
            base=base,
            base_hash=known["model_hash"],
            part=part,
            step=step,
            checkpoint=place,
        )

    def write(self, form: Form, place: Path) -> str | None:
        """Write one form into a folder; the name of the file of a LoRA."""
        if self.run.training.mode == "full":
            if form is not Form.PIPELINE:
                raise RunFolderError(
                    f"{self.folder.path}: every weight was trained, so there is no LoRA. "
                    "Take --form pipeline."
                )
            self._write_full(place)
            return None
        lora = self._lora()
        if form is Form.PIPELINE:
            self._write_merged(lora, place)
            return None
        place.mkdir()
        match form:
            case Form.DIFFUSERS:
                return lora.write_diffusers(place).name
            case Form.PEFT:
                return lora.write_peft(place, base=families.hub_repository(self.run.model)).name
            case Form.KOHYA:
                kind = getattr(diffusers, families.family_of(self.base).PIPELINE)
                return lora.write_kohya(place / f"{place.name}.safetensors", pipeline=kind).name

    def _lora(self) -> StoredLora:
        if self.checkpoint is None:
            return StoredLora.read(self.folder.adapter, part=self.part)
        return StoredLora.of_checkpoint(self._stored(), self.run.training.lora, part=self.part)

    def _stored(self) -> Path:
        """Weights of the checkpoint; their moving average if one is kept, as at the end of training."""
        assert self.checkpoint is not None
        name = "weights" if self.run.training.ema is None else "average"
        return self.checkpoint / f"{name}.safetensors"

    def _write_merged(self, lora: StoredLora, place: Path) -> None:
        """The base model's folder with the LoRA added to its weights, in their own type."""
        families.quiet()  # a LoRA of the text encoder alone has nothing for the network, as expected
        network = self._base_network()
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            lora.write_diffusers(Path(scratch))
            network.load_lora_adapter(scratch, prefix=self.part, weight_name=FILE)
        try:
            network.fuse_lora(safe_fusing=True)
        except ValueError as error:
            raise RunFolderError(
                f"{self.folder.path}: the LoRA holds numbers that are not finite, so it cannot be folded "
                "into the weights. Take a checkpoint from before, or train again."
            ) from error
        network.unload_lora()
        self._write_pipeline(network, place)
        if lora.of_text_encoder:
            lora.add_to_text_encoder(place / families.TEXT_ENCODER)

    def _write_full(self, place: Path) -> None:
        if self.checkpoint is None:
            shutil.copytree(self.folder.pipeline, place)
            return
        network = self._base_network().float()
        network.load_state_dict(load_file(self._stored()), strict=False)  # buffers do not train
        self._write_pipeline(network, place)

    def _base_network(self) -> Any:
        if model_hash(self.base) != self.base_hash:
            raise ModelError(
                f"{self.folder.run_file}: model: the content of {self.run.model} has changed since the "
                "training. Put the old one back; the trained weights fit no other."
            )
        folder = self.base / self.part
        kind = getattr(
            diffusers, json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
        )
        return kind.from_pretrained(
            str(folder), dtype=_stored_type(folder), use_safetensors=True, local_files_only=True
        )

    def _write_pipeline(self, network: Any, place: Path) -> None:
        families.copy_other_parts(self.base, place, trained=self.part)
        network.save_pretrained(str(place / self.part), safe_serialization=True)


def _stored_type(folder: Path) -> torch.dtype:
    """Type of the weights of a part on disk, of the file that `from_pretrained` loads."""
    name, index = SAFETENSORS_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        name = min(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    with safe_open(folder / name, framework="pt") as file:
        return file.get_tensor(next(iter(file.keys()))).dtype


def _earlier(to: Path, *, overwrite: bool) -> set[str]:
    """Files of an earlier export that may be replaced.

    Raises:
        RunFolderError: The folder is in use, and is not an earlier export or may not be replaced.
    """
    if to.exists() and not to.is_dir():
        raise RunFolderError(f"{to}: is a file, not a folder. Give another --to.")
    if not to.exists() or not any(to.iterdir()):
        return set()
    if not overwrite:
        raise RunFolderError(
            f"{to}: exists and is not empty. Give another --to, or replace an earlier export with "
            "--overwrite."
        )
    try:
        known = json.loads((to / LIST).read_text(encoding="utf-8"))
        return {
            LIST,
            *(name for name in known["files"] if (to / name).resolve().is_relative_to(to.resolve())),
        }
    except (OSError, ValueError, TypeError, KeyError):
        raise RunFolderError(
            f"{to}: holds no {LIST} of an earlier export, so nothing is replaced. Give another --to."
        ) from None


@contextmanager
def _beside(to: Path) -> Iterator[Path]:
    """Place for a folder of the same name on the same disk; what was not moved from it is gone afterwards."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".partial-") as scratch:
        yield Path(scratch) / to.resolve().name


def _move(place: Path, to: Path, *, listed: Mapping[str, Any], instead_of: set[str]) -> None:
    """Move what was written into the folder, and remove what is left of the earlier export.

    As long as it is at work, the list in the folder names all files, old and new: an export that was killed
    can be repeated with --overwrite.
    """
    new = listed["files"]
    for name in sorted({*new, LIST}):
        _require_free(to, name, instead_of=instead_of)
    to.mkdir(exist_ok=True)
    write_json_atomically(to / LIST, {**listed, "files": dict.fromkeys(sorted(instead_of - {LIST})) | new})
    for name in new:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(place / name, to / name)
    for name in instead_of - {*new, LIST}:
        _remove(to, name)
    write_json_atomically(to / LIST, listed)


def _require_free(to: Path, name: str, *, instead_of: set[str]) -> None:
    """A file can be written in the folder: nothing of that name is there but of the earlier export."""
    folders = [to / parent for parent in Path(name).parents if parent.name]
    in_the_way = [path for path in folders if path.is_symlink() or (path.exists() and not path.is_dir())]
    target = to / name
    if target.is_dir() or (os.path.lexists(target) and name not in instead_of):
        in_the_way.append(target)
    if in_the_way:
        raise RunFolderError(
            f"{in_the_way[0]}: is in the way of the export and is not of the earlier one, so nothing is "
            "replaced. Move it, or give another --to."
        )


def _remove(to: Path, name: str) -> None:
    """Remove a file of the earlier export, and the folders that are empty without it."""
    target = to / name
    if target.is_dir():
        return
    target.unlink(missing_ok=True)
    for parent in Path(name).parents:
        if parent.name and (to / parent).is_dir() and not any((to / parent).iterdir()):
            (to / parent).rmdir()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
