"""A run on disk: where each part lies, how it is written, and when a folder may be used."""

import contextlib
import errno
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

from safetensors import SafetensorError

from penchant import files
from penchant.errors import RunFolderError
from penchant.log import is_main_process
from penchant.runs.sentences import shown


@final
@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run; nothing is created by naming it."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> Self:
        """An empty folder that can be written to; of several processes, the main one makes it.

        Args:
            path: The folder; parents are made.
            overwrite: Remove an earlier run from it. Only the parts of a run are removed, and only from a
                folder that holds a run file or a manifest; other files stay.

        Raises:
            RunFolderError: The folder is in use, is no run folder, or cannot be written.
        """
        folder = cls.claim(path, overwrite=overwrite)
        if is_main_process() and any(path.iterdir()):
            folder._clear()
        return folder

    @classmethod
    def claim(cls, path: Path, *, overwrite: bool = False) -> Self:
        """As `create`, but an earlier run stays for now: it is only checked that it may be removed."""
        folder = cls(path)
        if not is_main_process():
            return folder
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path}: is a file, not a folder. Set another output.")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            present = any(path.iterdir())
        if present and not overwrite:
            raise RunFolderError(
                f"{path}: exists and is not empty. Continue the run with --resume, replace it with "
                "--overwrite, or set another output."
            )
        if present:
            folder._refuse_foreign()
        with writing(path), tempfile.TemporaryFile(dir=path):
            pass
        return folder

    @classmethod
    def find(cls, path: Path) -> Self:
        """A folder that is there, whatever parts of a run it holds.

        Raises:
            RunFolderError: There is no folder.
        """
        if not path.is_dir():
            raise RunFolderError(
                f"{path}: no such run folder. Give the folder that `penchant train` has written."
            )
        return cls(path)

    @classmethod
    def open_existing(cls, path: Path) -> Self:
        """The folder of a run that was started.

        Raises:
            RunFolderError: There is no folder, or no run in it.
        """
        folder = cls.find(path)
        if not folder.run_file.is_file():
            raise RunFolderError(
                f"{path}: holds no run.yaml. Give the folder that `penchant train` has written."
            )
        return folder

    @property
    def run_file(self) -> Path:
        """The effective run file."""
        return self.path / "run.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, seeds, hashes."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """One line per measured step."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """Win-rates and drift."""
        return self.path / "results.json"

    @property
    def scores(self) -> Path:
        """Scores of images, so that none is scored twice."""
        return self.path / "scores.sqlite"

    @property
    def samples(self) -> Path:
        """Images before and after."""
        return self.path / "samples"

    @property
    def drawn(self) -> Path:
        """Images that `penchant sample` has drawn."""
        return self.path / "drawn"

    @property
    def checkpoints(self) -> Path:
        """States to resume from."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Trained LoRA weights, as diffusers loads them."""
        return self.path / "adapter"

    @property
    def pipeline(self) -> Path:
        """Trained full model, as diffusers loads it."""
        return self.path / "pipeline"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    def read_manifest(self) -> dict[str, Any] | None:
        """Content of the manifest; None if it is not written yet.

        Raises:
            RunFolderError: It cannot be read, or is no manifest of a run.
        """
        if not self.manifest.is_file():
            return None
        try:
            known = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.manifest}: cannot be read as JSON ({error}). Put the old one back, or train again."
            ) from error
        wanted = ("model_hash", "data_hash")
        if not isinstance(known, dict) or not all(isinstance(known.get(name), str) for name in wanted):
            raise RunFolderError(
                f"{self.manifest}: must be an object with {' and '.join(wanted)}, as training writes it, got "
                f"{shown(known)}. Put the old one back, or train again."
            )
        return known

    def _parts(self) -> tuple[Path, ...]:
        return (
            *(self.run_file, self.manifest, self.metrics, self.results, self.scores, self.report),
            *(self.samples, self.drawn, self.checkpoints, self.adapter, self.pipeline, self.tensorboard),
        )

    def _refuse_foreign(self) -> None:
        parts = self._parts()
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry not in parts)
        if not self._has_own_manifest() and (foreign or not self.run_file.exists()):
            reason = f"it holds {shown(foreign[0])}" if foreign else "no run.yaml, no manifest.json"
            raise RunFolderError(
                f"{self.path}: does not look like a run folder ({reason}), so nothing is removed. "
                "Set another output, or empty the folder yourself."
            )

    def _has_own_manifest(self) -> bool:
        """True if manifest.json is one of ours; the name alone is common."""
        try:
            return "penchant" in json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return False

    def _clear(self) -> None:
        with writing(self.path):
            for part in self._parts():
                if part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part)
                else:
                    part.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what can go wrong while writing below a path into a RunFolderError with the way out."""
    try:
        yield
    except SafetensorError as error:  # its writer hides the number of the error in its words
        raise RunFolderError(f"{path}: cannot be written, {error}. Free some space.") from error
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                problem = "no space left on the disk. Free some, then continue with --resume."
            case errno.EACCES | errno.EPERM | errno.EROFS:
                problem = "cannot be written, permission denied. Set another output or change the rights."
            case _:
                problem = f"cannot be written, {error.strerror or error}. Set another output."
        raise RunFolderError(f"{path}: {problem}") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file that is either complete or as it was before.

    Raises:
        RunFolderError: The disk is full, the folder is missing or may not be written.
    """
    with writing(path):
        files.write_text(path, text)


def write_json_atomically(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, complete or not at all; NaN and infinity are refused (ValueError)."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
