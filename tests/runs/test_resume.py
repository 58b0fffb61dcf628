"""A run continues only as the run it was."""

import pytest

from penchant.errors import RunFolderError
from penchant.runs.load import check, dump
from penchant.runs.resume import changes, open_to_resume, refuse_changes


def run_of(**options):
    raw = {"model": "emoji", "data": {"path": "emoji-pairs"}, "method": "diffusion-dpo", "output": "x"}
    training = {"steps": 100, "learning_rate": 2e-4} | options.pop("training", {})
    return check(raw | options | {"training": training}, where="run.yaml")


def refused(**options):
    with pytest.raises(RunFolderError) as caught:
        refuse_changes(run_of(), run_of(**options), where="run.yaml")
    return str(caught.value)


def test_changes_are_listed_by_name():
    new = run_of(
        training={"learning_rate": 0.001, "lora": {"rank": 4}, "max_grad_norm": None},
        objective={"beta": 7},
        terms=[{"kind": "winner-kept", "coefficient": 1}],
        data={"path": "other"},
    )
    assert changes(run_of(), new) == [
        "data.path: emoji-pairs -> other",
        'terms: null -> [{"kind": "winner-kept", "coefficient": 1}]',
        "training.lora.rank: 16 -> 4",
        "training.learning_rate: 0.0002 -> 0.001",
        "training.max_grad_norm: 1.0 -> null",
        "objective.beta: null -> 7",
    ]
    assert changes(run_of(), run_of()) == []


def test_a_change_of_what_is_learnt_is_refused_and_named():
    assert refused(training={"learning_rate": 0.001}, seed=3) == (
        "run.yaml: has changed since the run was started: training.learning_rate: 0.0002 -> 0.001; "
        "seed: 0 -> 3. Undo this, or start anew with --overwrite or another output. Only more training.steps "
        "(constant schedule), checkpoint_every, keep_checkpoints, heldout_every and evaluation may change."
    )


def test_fewer_steps_are_refused():
    assert "training.steps: 100 -> 50" in refused(training={"steps": 50})


def test_more_steps_are_refused_where_they_would_change_the_past():
    """A falling schedule knows its last step from the first one."""
    old, new = (run_of(training={"schedule": "cosine", "steps": steps}) for steps in (100, 200))
    with pytest.raises(RunFolderError, match=r"training.steps: 100 -> 200"):
        refuse_changes(old, new, where="run.yaml")


@pytest.mark.parametrize(
    "options",
    [
        {"training": {"steps": 200}},
        {"training": {"checkpoint_every": 1, "keep_checkpoints": 9, "heldout_every": 2}},
        {"evaluation": {"num_prompts": 3}},
        {"output": "moved"},
    ],
)
def test_what_changes_nothing_that_was_learnt_may_change(options):
    refuse_changes(run_of(), run_of(**options), where="run.yaml")


def test_open_to_resume_compares_with_the_run_file_in_the_folder(tmp_path):
    (tmp_path / "run.yaml").write_text(dump(run_of()))
    assert open_to_resume(tmp_path, run_of(), where="run.yaml").path == tmp_path
    with pytest.raises(RunFolderError, match="seed: 0 -> 1"):
        open_to_resume(tmp_path, run_of(seed=1), where="run.yaml")
    with pytest.raises(RunFolderError, match="no such run folder"):
        open_to_resume(tmp_path / "no", run_of(), where="run.yaml")
