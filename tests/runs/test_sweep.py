"""A sweep: what it plans and refuses, who goes on, what is shared, and how it goes on after a stop."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from tests import small

from penchant.cli import main
from penchant.errors import ConfigError, DataError, RunFolderError, TrainingStopped
from penchant.evaluation.results import read_results
from penchant.runs import sweep as module
from penchant.runs.sweep import Candidate, Row, Sweep, plan_of, sweep

RATES = (1e-5, 0.02, 0.05)
OVER = "training.learning_rate=[1e-5, 0.02, 0.05]"
EVALUATION = {
    "metric": "colourfulness",
    "scores": ["colourfulness", "caption-match"],
    "num_steps": 2,
    "num_prompts": 2,
    "diversity_prompts": 1,
}


@pytest.fixture(scope="module")
def raw_of(tiny_model, tiny_pairs):
    """A run file as plain values, its folder given."""

    def build(place, **changes):
        known = {"training.steps": 4, "training.heldout_examples": 1, "evaluation": EVALUATION}
        return small.run_options(tiny_model, tiny_pairs, place / "out", known | changes)

    return build


@pytest.fixture
def file_of(raw_of, tmp_path):
    """A run file on the disk."""

    def build(**changes):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(raw_of(tmp_path, **changes)), encoding="utf-8")
        return path

    return build


def swept(path, *, resume=False, over=OVER):
    """The sweep, and what was shown."""
    with (path.parent / "shown.txt").open("w+", encoding="utf-8") as file:
        found = sweep(plan_of(path, [over], []), resume=resume, console=Console(file=file, width=200))
        file.seek(0)
        return found, file.read()


@pytest.fixture(scope="module")
def done(raw_of, tmp_path_factory):
    """A sweep over three learning rates, to its end."""
    place = tmp_path_factory.mktemp("sweep")
    path = place / "run.yaml"
    path.write_text(yaml.safe_dump(raw_of(place)), encoding="utf-8")
    return place, *swept(path)


def test_the_plan(file_of):
    over = ["training.learning_rate=[1e-5, 0.05]", "data.flip=[true, false]"]
    plan = plan_of(file_of(), over, ["seed=3"])
    assert [c.name for c in plan.candidates][:2] == [
        "training.learning_rate=1e-05,data.flip=true",
        "training.learning_rate=1e-05,data.flip=false",
    ]
    assert len(plan.candidates) == 4
    run = plan.run(plan.candidates[-1], 2)
    assert (run.training.learning_rate, run.data.flip, run.training.steps, run.seed) == (0.05, False, 2, 3)
    assert run.evaluation.split == run.data.heldout_split == "validation"
    assert Path(run.data.cache).parent == plan.folder / "encoded"
    assert run.evaluation.score_cache == str(plan.folder / "scores.sqlite")


@pytest.mark.parametrize(
    ("num", "steps", "stops"),
    [(1, 100, (100,)), (2, 100, (50, 100)), (5, 100, (12, 25, 50, 100)), (8, 240, (30, 60, 120, 240))],
)
def test_stops_double(file_of, num, steps, stops):
    plan = plan_of(file_of(**{"training.steps": steps}), [f"seed={list(range(num))}"], [])
    assert plan.stops == stops


def test_reference_errors_are_shared(file_of):
    plan = plan_of(file_of(**{"training.reference": {"kind": "cached"}}), [OVER], [])
    runs = [plan.run(candidate, 4) for candidate in plan.candidates]
    (shared,) = {run.training.reference.folder for run in runs}
    assert Path(shared).parent == plan.folder / "reference"


@pytest.mark.parametrize(
    ("over", "errors", "images"),
    [
        ("training.precision=[float32, bfloat16]", 2, 1),
        ("data.prompt_dropout=[0.0, 0.1]", 2, 1),
        ("data.size=[16, 32]", 2, 2),
        ("data.min_gap=[0.0, 0.1]", 1, 1),
    ],
)
def test_candidates_share_what_their_options_do_not_change(file_of, over, errors, images):
    plan = plan_of(file_of(**{"training.reference": {"kind": "cached"}}), [over], [])
    runs = [plan.run(candidate, 1) for candidate in plan.candidates]
    assert len({run.training.reference.folder for run in runs}) == errors
    assert len({run.data.cache for run in runs}) == images


@pytest.mark.parametrize(
    ("over", "changes", "sentence"),
    [
        ("objective.beta=10", {}, "--over objective.beta=10: is not an option and its values. Write it as"),
        ("objective.beta", {}, "--over objective.beta: is not an option and its values."),
        ("objective.beta=[]", {}, "--over objective.beta=[]: is not an option and its values."),
        ("objective.beta=[1, 1]", {}, "a value is there twice. Name each once."),
        ("objective.beta=[10, -1]", {}, "objective.beta: must be > 0, got -1"),
        ("training.lerning_rate=[1, 2]", {}, "Did you mean 'learning_rate'?"),
        ("training.steps=[10, 20]", {}, "--over training.steps: must be the same for all candidates."),
        ("evaluation.guidance=[1, 2]", {}, "--over evaluation.guidance: must be the same for all"),
        ("data.path=['a/b', 'a b']", {}, "values look alike as names of folders"),
        ("data.path=[a, b]", {}, "--over data.path: the held-out prompts would differ. Give"),
        (OVER, {"training.steps": 3}, "training.steps: must be >= 4 for 3 candidates, which are halved 2"),
        (
            OVER,
            {"training.schedule": "cosine"},
            "training.schedule: must be constant for a sweep, got cosine",
        ),
        (OVER, {"training.warmup_steps": 2}, "training.warmup_steps: must be <= steps 1, got 2"),
        (OVER, {"data.heldout_split": None}, "data.heldout_split: a sweep is judged on it"),
        (OVER, {"evaluation": small.REMOVED}, "evaluation.metric: name the reward that judges"),
    ],
)
def test_what_is_refused(file_of, over, changes, sentence):
    with pytest.raises(ConfigError) as caught:
        plan_of(file_of(**changes), [over], [])
    assert sentence in str(caught.value)


def test_what_is_better_comes_first():
    rows = [
        Row(candidate="stopped", step=1, stopped="why"),
        Row(candidate="highest, but lost the prompts", step=1, change=9.0, flagged=("caption match",)),
        Row(candidate="low", step=1, change=-1.0),
        Row(candidate="high", step=1, change=1.0, flagged=("contrast",)),
    ]
    ranked = [found.candidate for found in sorted(rows, key=lambda found: found.rank)]
    assert ranked == ["high", "low", "highest, but lost the prompts", "stopped"]


def test_the_better_half_goes_on(done):
    _, found, _ = done
    assert [len(found.at(stop)) for stop in (1, 2, 4)] == [3, 2, 1]
    for earlier, later in ((1, 2), (2, 4)):
        better = [row.candidate for row in found.at(earlier)][: len(found.at(later))]
        assert sorted(better) == sorted(row.candidate for row in found.at(later))
    assert found.best.step == 4
    assert len({row.change for row in found.at(1)}) == 3


def test_the_one_at_the_end_is_a_run_that_was_never_stopped(done, raw_of, tmp_path):
    place, found, _ = done
    rate = float(found.best.candidate.partition("=")[2])
    encoded = next((place / "out/encoded").iterdir())
    changes = {"training.learning_rate": rate, "data.cache": str(encoded)}
    straight, _ = small.train(raw_of(tmp_path, **changes))
    small.assert_same_adapter(place / "out" / found.best.candidate, straight.path)
    results = read_results(place / "out" / found.best.candidate / "results.json")
    assert Row.of(Candidate(name=found.best.candidate, assignments=()), 4, results) == found.best
    assert results.evaluation.prompt_set == "validation"


def test_what_does_not_differ_is_made_once(done):
    place, _, shown = done
    assert shown.count("sampling the base model") == 1
    assert shown.count("sampling the tuned model") == 6
    assert sorted(path.name for path in (place / "out").iterdir()) == sorted(
        ["sweep.json", "encoded", "scores.sqlite", *(f"training.learning_rate={rate!r}" for rate in RATES)]
    )


def test_a_sweep_that_was_stopped_goes_on(done, file_of, monkeypatch):
    place, whole, _ = done
    path, asked = file_of(), []

    def stopped(*words, **options):
        asked.append(words)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return evaluate(*words, **options)

    evaluate = module.evaluate
    monkeypatch.setattr(module, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        swept(path)
    monkeypatch.undo()
    found, shown = swept(path, resume=True)
    assert found.rows == whole.rows
    assert shown.count("sampling the tuned model") == 2
    again, shown = swept(path, resume=True)
    assert again.rows == whole.rows and "sampling" not in shown


def test_a_folder_in_use_and_another_sweep_are_refused(done, file_of):
    place, *_ = done
    path = place / "run.yaml"
    with pytest.raises(RunFolderError, match=r"out: exists and is not empty\. Go on with --resume, or set"):
        swept(path)
    with pytest.raises(RunFolderError, match=r"sweep\.json: candidates: differs from the sweep that was"):
        swept(path, resume=True, over="training.learning_rate=[1e-5, 0.02, 0.1]")
    with pytest.raises(RunFolderError, match=r"sweep\.json: no sweep to go on with\. Leave --resume out"):
        swept(file_of(), resume=True)


def test_several_processes_are_refused(file_of, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"a sweep runs in one process\. Call penchant sweep without a la"):
        swept(file_of())


def test_a_broken_file_is_named(done, tmp_path):
    place, *_ = done
    shutil.copytree(place / "out", tmp_path / "out")
    raw = yaml.safe_load((place / "run.yaml").read_text())
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw | {"output": str(tmp_path / "out")}))
    (tmp_path / "out/sweep.json").write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json: cannot be read \(Expecting property name"):
        swept(path, resume=True)


def test_a_candidate_that_stops_itself_is_given_up(file_of):
    path = file_of(**{"training.ema": None, "training.steps": 4})
    found, _ = swept(path, over="training.learning_rate=[1e18, 1e-5]")
    stopped = found.at(2)[-1]
    assert stopped.candidate == "training.learning_rate=1e+18"
    assert "not a number" in stopped.stopped and stopped.change is None
    assert found.best.candidate == "training.learning_rate=1e-05"


def test_if_all_stop_themselves_there_is_nothing_to_go_on_with(file_of):
    path = file_of(**{"training.ema": None, "training.steps": 4})
    with pytest.raises(
        TrainingStopped, match=r"all candidates that were left have stopped .*; the first: .*not a"
    ):
        swept(path, over="training.learning_rate=[1e18, 2e18]")


def test_the_command(done, file_of, capsys, monkeypatch):
    place, found, _ = done
    monkeypatch.setattr(
        sys, "argv", ["penchant", "sweep", str(place / "run.yaml"), "--over", OVER, "--resume"]
    )
    with pytest.raises(SystemExit) as end:
        main.run()
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "judged by colourfulness" in said and found.best.candidate[:20] in said
    assert (place / "out" / found.best.candidate / "report.html").is_file()
    assert found.best.candidate in (place / "out/sweep.html").read_text()
    assert json.loads((place / "out/sweep.json").read_text())["stops"] == [1, 2, 4]


def test_the_rows_are_stored_as_they_are(done):
    place, found, _ = done
    plan = plan_of(place / "run.yaml", [OVER], [])
    assert Sweep.read(plan).rows == found.rows
