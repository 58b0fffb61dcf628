"""What a run folder holds for the report, and what it lacks."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from penchant.errors import DataError
from penchant.evaluation.results import Results, read_results
from penchant.evaluation.sampling import INDEX
from penchant.runs.folder import RunFolder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A part of the run folder that is not there yet, and the command that makes it."""

    part: str
    command: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """Files of the base and the tuned image of one prompt and seed."""

    prompt: str
    seed: int
    base: Path
    tuned: Path


Points = tuple[tuple[int, float], ...]
"""Step and value, in the order of the steps."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Curves of `metrics.jsonl` by name; `warnings` says what of the file could not be used."""

    train: Mapping[str, Points]
    heldout: Mapping[str, Points]
    warnings: tuple[str, ...] = ()

    @property
    def last_step(self) -> int | None:
        """Last step that was logged; None without any."""
        steps = [points[-1][0] for points in (*self.train.values(), *self.heldout.values()) if points]
        return max(steps, default=None)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunContents:
    """All parts of a run folder that the report shows; a part that is not there is None or empty."""

    name: str
    run_text: str | None
    run: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    metrics: Metrics
    results: Results | None
    pairs: tuple[ImagePair, ...]
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]


_NO_RUN_FILE: Final = (
    *(YAMLError, OmegaConfBaseException),
    AssertionError,  # a lone number or truth value
    *(ValueError, KeyError, AttributeError),  # a tag that its value does not fit, as `!!int x`
)
"""What text that is no run file can raise."""


def read_run_folder(folder: Path) -> RunContents:
    """Read every part that is there.

    Args:
        folder: Holds `run.yaml`, `manifest.json`, `metrics.jsonl`, `results.json` and `samples/index.jsonl`
            with the images it names; any of them may be missing.

    Raises:
        RunFolderError: The folder does not exist.
        DataError: A part is there but cannot be read.
    """
    place = RunFolder.find(folder)
    run_text, manifest_text, metrics_text = map(_text, (place.run_file, place.manifest, place.metrics))
    results = read_results(place.results) if place.results.is_file() else None
    metrics = read_metrics(metrics_text or "")
    pairs, pair_warnings = read_samples(place)
    train, evaluate = "penchant train RUN.yaml", f"penchant evaluate {folder}"
    parts = (
        (run_text, f"{place.run_file.name}, the effective run file", train),
        (manifest_text, f"{place.manifest.name}, versions and hashes", train),
        (metrics_text, f"{place.metrics.name}, the training curves", train),
        (results, f"{place.results.name}, win-rates and drift", evaluate),
        (pairs or None, f"{place.samples.name}, the images before and after", evaluate),
    )
    manifest = _object(manifest_text, place.manifest)
    return RunContents(
        name=folder.resolve().name,
        run_text=run_text,
        run=_mapping_of_yaml(run_text),
        manifest=manifest,
        metrics=metrics,
        results=results,
        pairs=pairs,
        missing=tuple(Missing(part=name, command=command) for part, name, command in parts if part is None),
        warnings=(*metrics.warnings, *pair_warnings, *_warnings_of(manifest)),
    )


def read_metrics(text: str) -> Metrics:
    """Curves from the lines of `metrics.jsonl`; unusable lines and numbers are counted in the warnings.

    A line is an object with `step`, `split` ("train" or "heldout") and any number of metrics. When a step is
    there twice, as after a resume, the later line counts.
    """
    curves: dict[str, dict[str, dict[int, float]]] = {"train": {}, "heldout": {}}
    broken, not_finite = 0, {}
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            split, step = curves[row.get("split", "train")], int(row["step"])
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
            continue
        for name, value in row.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                split.setdefault(name, {})[step] = float(value)
            else:
                not_finite.setdefault(name, step)
    warnings = [f"metrics.jsonl: {broken} lines could not be read and are left out."] if broken else []
    warnings += [
        f"{name} is not a finite number at step {step}." for name, step in sorted(not_finite.items())
    ]
    train, heldout = (
        {name: tuple(sorted(points.items())) for name, points in curves[split].items()}
        for split in ("train", "heldout")
    )
    return Metrics(train=train, heldout=heldout, warnings=tuple(warnings))


def read_samples(folder: RunFolder) -> tuple[tuple[ImagePair, ...], tuple[str, ...]]:
    """The image pairs of a run folder, none if it has not been evaluated, and warnings as `read_pairs` gives.

    Raises:
        DataError: The index is there but cannot be read.
    """
    return read_pairs(_text(folder.samples / INDEX) or "", folder.samples)


def read_pairs(text: str, folder: Path) -> tuple[tuple[ImagePair, ...], tuple[str, ...]]:
    """Image pairs from the lines of `samples/index.jsonl`, and warnings on images that are not there.

    Args:
        text: One object a line with `prompt`, `seed`, and the paths `base` and `tuned` below `folder`.
        folder: The folder of the samples.

    Raises:
        DataError: A line lacks a key, or a path leads out of the folder.
    """
    pairs, absent = [], 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{folder / INDEX}: line {number}"
        try:
            row = json.loads(line)
            files = [folder / row[side] for side in ("base", "tuned")]
            prompt, seed = str(row["prompt"]), int(row["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}: needs prompt, seed, base and tuned, got {line[:80]!r} ({error}). Sample again."
            ) from None
        if any(not file.resolve().is_relative_to(folder.resolve()) for file in files):
            raise DataError(f"{where}: image outside the samples folder, got {line[:80]!r}. Sample again.")
        if all(file.is_file() for file in files):
            pairs.append(ImagePair(prompt=prompt, seed=seed, base=files[0], tuned=files[1]))
        else:
            absent += 1
    warnings = (f"{absent} image pairs of the index have no files and are left out.",) if absent else ()
    return tuple(pairs), warnings


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read, {error}. Check the file and its rights.") from None


def _object(text: str | None, path: Path) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON, {error}. Restore it or delete it.") from None
    return value if isinstance(value, dict) else {"manifest": value}


def _mapping_of_yaml(text: str | None) -> Mapping[str, Any]:
    """The run file as a mapping, for the names in the summary; empty if it is none."""
    try:
        value = OmegaConf.to_container(OmegaConf.create(text or "{}"), resolve=False)
    except _NO_RUN_FILE:  # the page then shows the text alone
        return {}
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _warnings_of(manifest: Mapping[str, Any] | None) -> tuple[str, ...]:
    listed = (manifest or {}).get("warnings", ())
    return tuple(str(warning) for warning in listed) if isinstance(listed, list) else ()
