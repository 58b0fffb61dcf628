"""Several runs that differ in some options: all begin, and at each stop the weaker half is given up.

Successive halving (Jamieson and Talwalkar 2015, arXiv:1502.07943): each stop has twice the steps of the one
before, so that every stop costs about as much as the others. What is told apart at a stop is what people
would look at, images of the same prompts and seeds, judged by `evaluation.metric`; not the preference loss,
which depends on the options that are compared.
"""

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self, final

from rich.console import Console

from penchant.errors import ConfigError, DataError, RunFolderError, TrainingStopped
from penchant.evaluation.drift import CAPTION_MATCH
from penchant.evaluation.results import Results
from penchant.runs.assemble import method_of
from penchant.runs.caches import errors_depend_on
from penchant.runs.evaluate import Images, base_images, evaluate, metric_of
from penchant.runs.folder import RunFolder, write_json_atomically, writing
from penchant.runs.load import OVER, alternatives, load
from penchant.runs.resume import open_to_resume
from penchant.runs.schema import HELD_OUT, RunFile
from penchant.runs.train import train

FILE: Final = "sweep.json"
VERSION: Final = 3
_RULED: Final = ("training.steps", "evaluation", "output")
"""Options that may not differ: the stops set the first, and the others would compare unlike things."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One choice of the options.

    Attributes:
        name: What differs, such as `objective.beta=100`; also the name of its run folder.
        assignments: The options as `--set` takes them.
    """

    name: str
    assignments: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate at a stop.

    Attributes:
        candidate: Its name.
        step: Optimizer steps done.
        change: Mean change of the judging score from base to tuned model, in its unit; None if it stopped.
        win_rate: Value, low and high of the paired win-rate.
        preferred_share: Of base and tuned images; None without a style judge.
        caption_match: Of base and tuned images, in points; None without a scorer of captions.
        flags: Names of the findings.
        flagged: Drift measures that they are about.
        stopped: Why training ended itself; empty if it did not.
    """

    candidate: str
    step: int
    change: float | None = None
    win_rate: tuple[float, float, float] | None = None
    preferred_share: tuple[float, float] | None = None
    caption_match: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """What is better comes first: training went on, captions still match, the score rose most."""
        return (bool(self.stopped), CAPTION_MATCH in self.flagged, -(self.change or 0.0))

    @classmethod
    def of(cls, candidate: Candidate, step: int, results: Results) -> Self:
        """The row of an evaluation."""
        rate, share, captions = results.win_rate, results.preferred_share, results.caption_match
        return cls(
            candidate=candidate.name,
            step=step,
            change=results.effect_size.mean_difference,
            win_rate=(rate.value, rate.low, rate.high),
            preferred_share=None if share is None else (share.base.value, share.tuned.value),
            caption_match=None if captions is None else (captions.base.value, captions.tuned.value),
            flags=tuple(flag.name for flag in results.drift.flags),
            flagged=tuple(flag.measure for flag in results.drift.flags if flag.measure is not None),
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep is going to do.

    Attributes:
        path: The run file.
        folder: Where it is written.
        metric: Name of the score that judges.
        candidates: In the order in which they were given.
        stops: Steps after which all that are left are judged; half of them go on.
    """

    path: Path
    folder: Path
    metric: str
    candidates: tuple[Candidate, ...]
    stops: tuple[int, ...]

    def run(self, candidate: Candidate, steps: int) -> RunFile:
        """The run file of a candidate, up to a stop."""
        last = (f"training.steps={steps}", f"output={json.dumps(str(self.folder / candidate.name))}")
        return load(self.path, [*candidate.assignments, *last])

    def head(self) -> dict[str, Any]:
        """What has to be the same when the sweep goes on."""
        return {
            "version": VERSION,
            "metric": self.metric,
            "candidates": {candidate.name: list(candidate.assignments) for candidate in self.candidates},
            "stops": list(self.stops),
        }


@final
@dataclass(slots=True)
class Sweep:
    """A sweep and what is known of it, stored in `sweep.json` after each judgement."""

    plan: Plan
    rows: list[Row] = field(default_factory=list)

    def at(self, stop: int) -> list[Row]:
        """What was judged at a stop, the best first."""
        return sorted((row for row in self.rows if row.step == stop), key=lambda row: row.rank)

    @property
    def best(self) -> Row:
        """The one that has reached the last stop."""
        return self.at(self.plan.stops[-1])[0]

    def store(self) -> None:
        """Write everything that is known."""
        rows = [asdict(row) for row in self.rows]
        write_json_atomically(self.plan.folder / FILE, {**self.plan.head(), "rows": rows})

    @classmethod
    def read(cls, plan: Plan) -> Self:
        """What an earlier call has stored.

        Raises:
            RunFolderError: There is no sweep, or it is another one.
        """
        path = plan.folder / FILE
        if not path.is_file():
            raise RunFolderError(f"{path}: no sweep to go on with. Leave --resume out.")
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            rows = [Row(**{key: _tuple(value) for key, value in row.items()}) for row in known.pop("rows")]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Start anew with another output.") from None
        for name, value in plan.head().items():
            if known.get(name) != value:
                raise RunFolderError(
                    f"{path}: {name}: differs from the sweep that was begun, {known.get(name)} there and "
                    f"{value} now. Undo the change, or start anew with another output."
                )
        return cls(plan, rows)


def plan_of(path: Path, over: Sequence[str], assignments: Sequence[str]) -> Plan:
    """The candidates and stops of a sweep, everything checked that can be without loading a model.

    Args:
        path: Run file; `training.steps` are those of the one that goes to the end, `output` is the folder.
        over: Options with their values, as `objective.beta=[10, 100]`; several make a grid.
        assignments: Options for all, as `--set` takes them.

    Raises:
        ConfigError: An option is wrong, or does not go with a sweep.
    """
    where, run = str(path), load(path, assignments)
    folder = Path(run.output)
    candidates = tuple(
        replace(candidate, assignments=(*candidate.assignments, *_kept(path, candidate, folder)))
        for candidate in _candidates(over, (*assignments, *_shared(run, folder, where)))
    )
    plan = Plan(
        path=path,
        folder=folder,
        metric=metric_of(run, where=where).name,
        candidates=candidates,
        stops=_stops(run.training.steps, len(candidates), where),
    )
    for candidate in candidates:
        _refuse_unfit(plan.run(candidate, plan.stops[0]), run, where)
    return plan


def _candidates(over: Sequence[str], common: Sequence[str]) -> tuple[Candidate, ...]:
    """Every choice of the options, as a grid."""
    axes = [alternatives(text) for text in over]
    for key, _ in axes:
        if any(key == ruled or key.startswith(f"{ruled}.") for ruled in _RULED):
            raise ConfigError(f"{OVER} {key}: must be the same for all candidates. Use --set {key}=... .")
    candidates = []
    for values in itertools.product(*(values for _, values in axes)):
        own = [f"{key}={json.dumps(value)}" for (key, _), value in zip(axes, values, strict=True)]
        candidates.append(Candidate(name=",".join(map(_name, own)), assignments=(*common, *own)))
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{OVER}: values look alike as names of folders, {names}. Sweep over one at a time."
        )
    return tuple(candidates)


def _stops(steps: int, candidates: int, where: str) -> tuple[int, ...]:
    """The last step after its half, quarter and so on, as many as it takes to leave one candidate."""
    halvings = math.ceil(math.log2(candidates))
    if steps < 2**halvings:
        raise ConfigError(
            f"{where}: training.steps: must be >= {2**halvings} for {candidates} candidates, which are "
            f"halved {halvings} times, got {steps}."
        )
    return tuple(steps // 2**left for left in range(halvings, -1, -1))


def _refuse_unfit(candidate: RunFile, run: RunFile, where: str) -> None:
    """A candidate, up to its first stop, that could not go on or could not be compared."""
    method_of(candidate, where=where)
    if candidate.training.schedule != "constant" and candidate.training.steps < run.training.steps:
        raise ConfigError(
            f"{where}: training.schedule: must be constant for a sweep, got {candidate.training.schedule}: a "
            "falling learning rate depends on the last step. Use --set training.schedule=constant."
        )
    if candidate.evaluation.prompts == HELD_OUT and candidate.data.path != run.data.path:
        raise ConfigError(
            f"{OVER} data.path: the held-out prompts would differ. Give evaluation.prompts a file."
        )


def sweep(plan: Plan, *, resume: bool, console: Console) -> Sweep:
    """Train all candidates to the first stop, the better half to the next, and so on to the last.

    Args:
        plan: What is done.
        resume: Go on with what is there; nothing is trained or judged twice.
        console: Where progress is shown.

    Raises:
        ConfigError: It was started in several processes.
        RunFolderError: The folder is in use, or holds another sweep.
        TrainingStopped: All candidates that were left have stopped themselves.
        Interrupted: Ctrl-C or SIGTERM.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep runs in one process. Call penchant sweep without a launcher.")
    if resume:
        known = Sweep.read(plan)
    else:
        if plan.folder.exists() and any(plan.folder.iterdir()):
            raise RunFolderError(
                f"{plan.folder}: exists and is not empty. Go on with --resume, or set another output."
            )
        with writing(plan.folder):
            plan.folder.mkdir(parents=True, exist_ok=True)
        known = Sweep(plan)
        known.store()
    left, judge = list(plan.candidates), _Judge(console)
    for stop in plan.stops:
        for number, candidate in enumerate(left, start=1):
            if any((row.candidate, row.step) == (candidate.name, stop) for row in known.rows):
                continue
            console.rule(f"{candidate.name} to step {stop}, {number} of {len(left)}")
            known.rows.append(_row(plan, candidate, stop, judge, console))
            known.store()
        rows = known.at(stop)
        if rows[0].stopped:
            raise TrainingStopped(
                f"all candidates that were left have stopped themselves; the first: {rows[0].stopped}"
            )
        going_on = {row.candidate for row in rows[: math.ceil(len(left) / 2)] if not row.stopped}
        left = [candidate for candidate in left if candidate.name in going_on]
    return known


@final
class _Judge:
    """Evaluates runs; images of a base model are drawn once for all that share it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._known: tuple[str, Images] | None = None

    def __call__(self, folder: RunFolder, run: RunFile) -> Results:
        parts = (run.data.model_dump(mode="json"), run.evaluation.model_dump(mode="json"))
        key = json.dumps([run.model, run.seed, *parts])
        if self._known is None or self._known[0] != key:
            self._known = (key, base_images(folder, console=self.console))
        return evaluate(folder, console=self.console, base=self._known[1])


def _row(plan: Plan, candidate: Candidate, stop: int, judge: _Judge, console: Console) -> Row:
    run, where = plan.run(candidate, stop), str(plan.path)
    folder = RunFolder(Path(run.output))
    begun = folder.run_file.is_file()
    if begun:
        open_to_resume(folder.path, run, where=where)
    else:
        RunFolder.claim(folder.path, overwrite=True)
    try:
        train(run, folder, resume=begun, console=console, where=where)
    except TrainingStopped as error:
        console.print(str(error), style="red", markup=False)
        return Row(candidate=candidate.name, step=stop, stopped=str(error))
    return Row.of(candidate, stop, judge(folder, run))


def _shared(run: RunFile, folder: Path, where: str) -> list[str]:
    """Options that let the candidates share their scores, and keep the test split out of it."""
    places: dict[str, str] = {}
    if run.evaluation.prompts == HELD_OUT:
        if run.data.heldout_split is None:
            raise ConfigError(
                f"{where}: data.heldout_split: a sweep is judged on it, so that the test split stays unseen, "
                "got null. Name a split, or give evaluation.prompts a file."
            )
        places["evaluation.split"] = run.data.heldout_split
    if run.evaluation.score_cache is None:
        places["evaluation.score_cache"] = str(folder / "scores.sqlite")
    return [f"{key}={json.dumps(value)}" for key, value in places.items()]


def _kept(path: Path, candidate: Candidate, folder: Path) -> list[str]:
    """Options that let candidates share what is encoded and measured, as far as theirs do not change it."""
    run, places = load(path, candidate.assignments), {}
    encoded = {"model": run.model, "size": str(run.data.size), "buckets": str(run.data.buckets)}
    if run.data.cache is None and not run.data.streaming and run.online is None:
        places["data.cache"] = str(folder / "encoded" / _digest(encoded))
    if run.training.reference.kind == "cached" and run.training.reference.folder is None:
        adapter = {"data": run.data.path, "start": str(run.training.lora.start_from)}
        measured = errors_depend_on(run, method_of(run, where=str(path)))
        places["training.reference.folder"] = str(
            folder / "reference" / _digest({**encoded, **adapter, **measured})
        )
    return [f"{key}={json.dumps(value)}" for key, value in places.items()]


def _digest(options: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]


def _name(assignment: str) -> str:
    """An assignment as a part of the name of a folder."""
    key, _, value = assignment.partition("=")
    return f"{key}={re.sub(r'[^A-Za-z0-9._+-]+', '-', value).strip('-')[:60]}"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
