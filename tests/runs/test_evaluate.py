"""Base against tuned model from a run folder: what is drawn, measured, written and refused."""

import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from rich.console import Console
from tests import small

from penchant.cli import main
from penchant.data import store
from penchant.errors import ConfigError, DataError, ModelError, RunFolderError
from penchant.evaluation.results import read_results
from penchant.evaluation.sampling import Sampler, draw, requests_for, to_picture
from penchant.reports.summary import outcome
from penchant.rewards.caption_match import CaptionMatch
from penchant.rewards.colourfulness import Colourfulness
from penchant.rewards.compressibility import Compressibility
from penchant.runs.build import relabel
from penchant.runs.evaluate import (
    evaluate,
    metric_of,
    models,
    require_possible,
    sample,
    suite_of,
    trained_on,
)
from penchant.runs.folder import RunFolder
from penchant.runs.load import check, load
from penchant.runs.resume import changes

EVALUATION = {
    "metric": "colourfulness",
    "scores": ["colourfulness", "compressibility", "caption-match"],
    "num_steps": 2,
    "num_prompts": 3,
    "diversity_prompts": 2,
    "batch_size": 4,
}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tiny_model, tiny_pairs, tmp_path_factory):
    """A run of two steps with a strong learning rate."""
    place = tmp_path_factory.mktemp("run")
    scores = EVALUATION | {"score_cache": str(place / "shared.sqlite")}
    changes = {"evaluation": scores, "training.learning_rate": 0.05}
    raw = small.run_options(tiny_model, tiny_pairs, place / "out", changes)
    return small.train(raw)[0]


@pytest.fixture(scope="module")
def results(trained):
    return evaluate(trained, console=QUIET)


def test_every_prompt_is_judged_once_and_some_are_drawn_twice(trained, results):
    rows = [json.loads(line) for line in (trained.samples / "index.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]
    assert (results.win_rate.n, results.win_rate.num_prompts) == (3, 3)
    assert len(set(prompts[:3])) == 3
    assert prompts[3:] == prompts[:2]
    assert len({row["seed"] for row in rows}) == 5
    assert [line.name for line in results.drift.panel][-2:] == ["diversity between seeds", "caption match"]


def test_the_pictures_on_disk_are_those_of_the_pipelines(trained, results):
    run = load(trained.run_file)
    suite = suite_of(run, where="x")
    requests = requests_for(suite.prompts, seeds_per_prompt=1, seed=run.seed)
    requests += requests_for(suite.prompts[:2], seeds_per_prompt=2, seed=run.seed)[1::2]
    sampler = Sampler(num_steps=2, guidance=run.evaluation.guidance, eta=0.0, batch_size=4)
    for side, model in zip(("base", "tuned"), models(trained, run), strict=True):
        for number, image in enumerate(draw(model.pipeline, requests, sampler)):
            with Image.open(trained.samples / side / f"{number:05d}.png") as stored:
                assert stored.tobytes() == to_picture(image).tobytes()


def test_options_of_evaluation_can_be_set_afterwards_and_are_kept(trained, results, tmp_path):
    folder = RunFolder(shutil.copytree(trained.path, tmp_path / "copy"))
    found = evaluate(
        folder, console=QUIET, assignments=["evaluation.num_prompts=1", "evaluation.num_steps=1"]
    )
    assert (found.win_rate.n, found.evaluation.num_steps) == (1, 1)
    run = load(folder.run_file)
    assert (run.evaluation.num_prompts, run.evaluation.num_steps) == (1, 1)
    assert changes(load(trained.run_file), run) == [
        "evaluation.num_prompts: 3 -> 1",
        "evaluation.num_steps: 2 -> 1",
    ]
    place = sample(
        folder, prompts=["x"], num=1, out=None, console=QUIET, assignments=["evaluation.precision=bfloat16"]
    )
    assert (place / "tuned/00000.png").is_file()
    assert load(folder.run_file) == run


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("training.steps=5", "--set training.steps: belongs to the training, which is over; only options of"),
        ("evaluation.metric=colourfullness", "Did you mean 'colourfulness'?"),
        ("evaluation.num_prompts=0", "--set: evaluation.num_prompts: must be >= 1, got 0."),
    ],
)
def test_options_that_cannot_be_set_afterwards_are_refused(trained, results, assignment, sentence):
    before = trained.run_file.read_text(), trained.results.read_text()
    with pytest.raises(ConfigError) as caught:
        evaluate(trained, console=QUIET, assignments=[assignment])
    assert sentence in str(caught.value)
    assert (trained.run_file.read_text(), trained.results.read_text()) == before


def test_results_are_written_as_returned(trained, results):
    assert read_results(trained.results) == results
    assert set(results.other_scores) == {"compressibility", "caption match"}
    assert results.preferred_share is None  # only the judge of the shipped pairs knows a preferred style
    assert set(results.timings) == {"training_s", "sampling_s", "scoring_s"}
    assert results.peak_memory > 0
    assert (results.evaluation.num_prompts, results.evaluation.precision) == (3, "float32")
    assert "3 pairs of images" in outcome(results)["numbers"]


def test_every_score_has_its_version_and_role(trained, results):
    found = {name: (score.version, score.role) for name, score in results.other_scores.items()}
    assert found == {
        "compressibility": ("quality 95", "description"),
        "caption match": (CaptionMatch().version, "quality"),
    }
    assert results.evaluation.scorer_version == "1"


def test_a_reward_that_made_the_labels_was_trained_on(options, tiny_pairs, tmp_path):
    judged = tmp_path / "judged.parquet"
    relabel(tiny_pairs, judged, ["colourfulness", "compressibility"], console=QUIET, split="train")
    run = check(options(**{"data.path": str(judged)}), where="run.yaml")
    assert trained_on(run, store.read(judged), where="run.yaml") == {"colourfulness"}
    assert trained_on(run, store.read(tiny_pairs), where="run.yaml") == set()


def test_a_method_that_samples_was_trained_on_every_part_of_its_reward(options):
    part = {"weight": 1.0, "mean": 0.0, "std": 1.0}
    reward = {"kind": "combined", "parts": [part | {"reward": "colourfulness"}, part | {"reward": "style"}]}
    online = {
        "method": "d3po", "objective": {}, "online": {"reward": reward}, "data.heldout_split": None,
        "training": {"steps": 1},
    }  # fmt: skip
    run = check(options(**online), where="run.yaml")
    assert trained_on(run, [], where="run.yaml") == {"combined", "colourfulness", "style"}


def test_each_split_is_opened_once(trained, results, tmp_path, monkeypatch):
    folder = RunFolder(shutil.copytree(trained.path, tmp_path / "again"))
    opened, real = [], store.read
    monkeypatch.setattr(
        store, "read", lambda path, **how: (opened.append(how["split"]), real(path, **how))[1]
    )
    assert evaluate(folder, console=QUIET).drift == results.drift
    assert sorted(opened) == ["test", "train"]


def test_several_seeds_need_no_second_ones(tiny_model, tiny_pairs, tmp_path):
    several = EVALUATION | {"seeds_per_prompt": 2, "num_prompts": 2}
    several.pop("diversity_prompts")  # nothing would read it
    changes = {"evaluation": several}
    folder, _ = small.train(small.run_options(tiny_model, tiny_pairs, tmp_path / "out", changes))
    found = evaluate(folder, console=QUIET)
    assert (found.win_rate.n, found.win_rate.num_prompts) == (4, 2)
    assert folder.scores.is_file()
    assert len((folder.samples / "index.jsonl").read_text().splitlines()) == 4


def test_sample_draws_what_is_asked_for_and_keeps_what_is_there(trained, tmp_path):
    place = sample(trained, prompts=["a fish"], num=2, out=tmp_path / "drawn", console=QUIET)
    rows = [json.loads(line) for line in (place / "index.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a fish", "a fish"]
    assert all((place / row[side]).is_file() for row in rows for side in ("base", "tuned"))
    with pytest.raises(RunFolderError, match="exists and is not empty. Give another folder with --out."):
        sample(trained, prompts=["a fish"], num=1, out=place, console=QUIET)


def test_a_run_that_is_not_complete_is_refused(trained):
    known = json.loads(trained.manifest.read_text())
    trained.manifest.write_text(json.dumps(known | {"complete": False}))
    try:
        with pytest.raises(RunFolderError, match="the training is not complete. Go on with"):
            models(trained, load(trained.run_file))
    finally:
        trained.manifest.write_text(json.dumps(known))


@pytest.mark.parametrize("tuned", [False, True], ids=["base", "tuned"])
def test_a_model_that_its_family_refuses_is_named_with_its_place(options, tiny_model, tmp_path, tuned):
    other = small.without_side(tiny_model, tmp_path / "other")
    folder = small.untrained(options(model=str(tiny_model if tuned else other)))
    shutil.copytree(other if tuned else tiny_model, folder.pipeline)
    with pytest.raises(ModelError) as caught:
        models(folder, load(folder.run_file))
    place = folder.path if tuned else f"{folder.run_file}: model"
    assert str(caught.value) == f"{place}: {small.NO_SIDE}"


def test_a_judge_is_needed_and_may_not_be_the_one_trained_on(options, monkeypatch):
    own = check(options(), where="run.yaml")
    with pytest.raises(ConfigError, match=r"^run.yaml: evaluation.metric: name the reward that judges"):
        metric_of(own, where="run.yaml")
    monkeypatch.setattr(
        "penchant.runs.evaluate.sampled", lambda *args, **rest: pytest.fail("images were drawn")
    )
    with pytest.raises(ConfigError, match="evaluation.metric: name the reward that judges"):
        evaluate(small.untrained(options()), console=QUIET)
    online = {
        "method": "d3po",
        "objective": {},
        "online": {"reward": "colourfulness"},
        "data.heldout_split": None,
        "training": {"steps": 1},
        "evaluation": {"metric": "colourfulness"},
    }
    run = check(options(**online), where="run.yaml")
    with pytest.raises(ConfigError, match="the run was trained on 'colourfulness', which cannot judge it"):
        require_possible(run, where="run.yaml")


def test_names_and_prompts_are_checked_before_training(options, tmp_path):
    wrongs = {"scores.1": {"scores": ["style", "beauty"]}, "metric": {"metric": "beauty"}}
    for place, wrong in wrongs.items():
        with pytest.raises(ConfigError, match=f"^run.yaml: evaluation.{place}: unknown reward 'beauty'"):
            check(options(evaluation=wrong), where="run.yaml")
    stray = check(options(evaluation={"scores": [{"kind": "style", "stil": "noto"}]}), where="run.yaml")
    with pytest.raises(ConfigError, match="^run.yaml: evaluation.scores.0: unknown option of Style 'stil'"):
        require_possible(stray, where="run.yaml")
    lost = check(options(evaluation={"prompts": str(tmp_path / "lost.txt")}), where="run.yaml")
    with pytest.raises(DataError, match="lost.txt: cannot be read"):
        require_possible(lost, where="run.yaml")


def test_noise_that_the_schedule_would_not_read_is_refused(trained, monkeypatch):
    run = load(trained.run_file)
    run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"eta": 0.5})})

    class Deaf:
        noise_span = 1.0

        class pipeline:
            class scheduler:
                @staticmethod
                def step(sample): ...

    monkeypatch.setattr("penchant.runs.evaluate.models", lambda folder, run: (Deaf(), Deaf()))
    from penchant.runs.evaluate import sampled

    with pytest.raises(ConfigError, match="evaluation.eta: type does not read it. Set it to 0."):
        sampled(trained, run, [], QUIET)


def test_the_commands_evaluate_sample_and_explain(trained, results, tmp_path, monkeypatch, capsys):
    def penchant(*words):
        monkeypatch.setattr(sys, "argv", ["penchant", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main.run()
        assert not ended.value.code
        return capsys.readouterr().out

    def never(self, images, prompts):
        raise AssertionError("scored again")

    for kind in (Colourfulness, Compressibility, CaptionMatch):
        monkeypatch.setattr(kind, "__call__", never)
    assert trained.path.with_name("shared.sqlite").is_file() and not trained.scores.exists()
    assert "3 pairs of images" in penchant("evaluate", trained.path)
    assert read_results(trained.results).win_rate == results.win_rate
    out = penchant("sample", trained.path, "--prompt", "a fish", "--num", "1", "--out", tmp_path / "new")
    assert out.strip().endswith(str(tmp_path / "new"))
    explained = penchant("explain", trained.run_file)
    for line in ("training.learning_rate", "what it takes", "of the denoiser", "of activations"):
        assert line in explained


def test_weights_are_sampled_in_the_precision_that_is_asked_for(trained):
    run = load(trained.run_file)
    half = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"precision": "bfloat16"})})
    for model in models(trained, half):
        assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
