"""What `results.json` of a run folder holds: plain frozen rows, written and read without loss."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from penchant.errors import DataError, RunFolderError
from penchant.evaluation.drift import DriftMeasure
from penchant.evaluation.flags import Flag
from penchant.evaluation.intervals import Estimate
from penchant.evaluation.winrate import EffectSize, WinRate
from penchant.files import write_text

VERSION = 3
"""Version of the stored form; it grows when a key changes its name or its meaning."""

Role = Literal["trained", "quality", "description"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BaseAndTuned:
    """The same quantity of the base model and of the tuned one."""

    base: Estimate
    tuned: Estimate


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The panel and the flags drawn from it.

    `limits` holds what was allowed: part of the base mean per measure, points for the caption match.
    """

    panel: tuple[DriftMeasure, ...]
    flags: tuple[Flag, ...]
    limits: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreComparison:
    """One reward on the paired images.

    `version` is that of the reward; only scores of equal versions may be compared. `role` is trained (the run
    aimed at it), quality (it judges, and was not trained on) or description.
    """

    unit: str
    version: str
    role: Role
    base: Estimate
    tuned: Estimate
    win_rate: WinRate


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationManifest:
    """Everything that must agree before two results may be compared.

    Attributes:
        metric: Name of the score behind `win_rate` and `effect_size`.
        unit: Unit of that score.
        prompt_set: Name of the prompt set.
        prompt_hash: Hash of its prompts, from `PromptSuite.hash`.
        num_prompts: Number of prompts.
        num_seeds: Largest number of seeds per prompt.
        sampler: Name of the sampler.
        num_steps: Sampling steps.
        guidance_scale: Scale of classifier-free guidance.
        precision: Type of the weights while sampling.
        scorer_version: Version of the judging scorer: a hash of its weights, and its options.
        tie_margin: Largest score difference that counts as a tie.
    """

    metric: str
    unit: str
    prompt_set: str
    prompt_hash: str
    num_prompts: int
    num_seeds: int
    sampler: str
    num_steps: int
    guidance_scale: float
    precision: str
    scorer_version: str
    tie_margin: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All results of one evaluation.

    `preferred_share` is None without a style judge, `caption_match` (points) without a scorer of captions.
    `timings` are in seconds, `peak_memory` in bytes (None if not measured).
    """

    win_rate: WinRate
    effect_size: EffectSize
    preferred_share: BaseAndTuned | None
    caption_match: BaseAndTuned | None
    drift: Drift
    other_scores: Mapping[str, ScoreComparison]
    timings: Mapping[str, float]
    peak_memory: int | None
    evaluation: EvaluationManifest

    def to_json(self) -> str:
        """The stored form, with its version."""
        rows = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "results.json") -> "Results":
        """Read the stored form.

        Args:
            text: Content of the file.
            where: Name of the file, for the error sentence.

        Raises:
            DataError: Not JSON, another version, a key that is unknown or missing, or a wrong type.
        """
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not valid JSON, {error}. Write it again with penchant evaluate."
            ) from None
        if not isinstance(rows, dict):
            raise DataError(f"{where}: needs an object with keys, got {type(rows).__name__}.")
        version = rows.pop("version", None)
        if version != VERSION:
            raise DataError(
                f"{where}: version of the results, got {version!r}. This release reads version {VERSION}; "
                "write it again with penchant evaluate."
            )
        return _read(cls, rows, where)


def read_results(path: Path) -> Results:
    """Results stored in a file; a DataError names the file and the key that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read, {error}. Write it with penchant evaluate.") from None
    return Results.from_json(text, where=str(path))


def write_results(results: Results, path: Path) -> None:
    """Write results to a file in one step: either the whole new file is there or the old one."""
    try:
        write_text(path, results.to_json())
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written, {error}. Free the disk or change the rights."
        ) from None


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` of JSON as the annotated type; `where` grows by the key on the way down."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _read(next(option for option in arguments if option is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise DataError(f"{where}: not allowed, got {value!r}. Allowed: {', '.join(arguments)}.")
        return value
    if origin is tuple:
        _demand(value, list, where)
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _demand(value, dict, where)
        return {key: _read(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_row(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _demand(value, kind, where)
    return value


def _read_row(kind: Any, value: Any, where: str) -> Any:
    _demand(value, dict, where)
    annotations = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if surplus := sorted(value.keys() - set(names)):
        raise DataError(f"{where}: unknown key {surplus[0]!r}. Known: {', '.join(names)}.")
    if missing := [name for name in names if name not in value]:
        raise DataError(f"{where}: missing key {missing[0]!r}. Needed: {', '.join(names)}.")
    return kind(**{name: _read(annotations[name], value[name], f"{where}: {name}") for name in names})


def _demand(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: needs {kind.__name__}, got {type(value).__name__} {value!r:.60}.")
