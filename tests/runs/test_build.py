"""`penchant data build` by a build file and `penchant data relabel`, on a tiny random model."""

import json

import pytest
from tests import small
from typer.testing import CliRunner

from penchant.cli.data import app
from penchant.data import store
from penchant.errors import PenchantError
from penchant.evaluation import sampling
from penchant.rewards.compressibility import Compressibility


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, PenchantError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def refused(*arguments):
    with pytest.raises(PenchantError) as error:
        run(*arguments)
    return str(error.value)


@pytest.fixture
def build_file(tiny_model, tmp_path):
    """A build file of two prompts and three candidates each, two at once; changed by lines."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")

    def write(*lines):
        path = tmp_path / "build.yaml"
        path.write_text(
            f"model: {tiny_model}\nprompts: {tmp_path}/prompts.txt\nnum_candidates: 3\n"
            f"rewards: [compressibility, colourfulness]\noutput: {tmp_path}/out\n"
            "sampling: {num_steps: 2, batch_size: 2}\n" + "\n".join(lines)
        )
        return path

    return write


def test_a_build_is_stopped_goes_on_and_does_nothing_twice(build_file, tmp_path, monkeypatch):
    drawn, scored, draw = [], [], sampling.draw

    def stopping(pipeline, requests, sampler, **options):
        if len(drawn) == 2:
            drawn.append("stop")
            raise KeyboardInterrupt
        drawn.extend(request.seed for request in requests)
        return draw(pipeline, requests, sampler, **options)

    def counting(self, images, prompts):
        scored.append(len(images))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return original(self, images, prompts)

    original = Compressibility.__call__
    monkeypatch.setattr("penchant.runs.build.draw", stopping)
    monkeypatch.setattr(Compressibility, "__call__", counting)
    path, out = build_file(), tmp_path / "out" / "pairs.parquet"
    for _ in range(2):  # stopped while it draws, then while it scores
        assert CliRunner().invoke(app, ["build", str(path)]).exit_code == 130
        assert not out.exists()
    said = run("build", path)
    drawn.remove("stop")
    assert len(drawn) == len(set(drawn)) == 6
    assert scored == [2, 2, 2, 2]  # the second was stopped and stored nothing
    assert said.splitlines()[-3].startswith(
        f"{out}: 2 rows from 2 prompts and 6 images. Left out: 0 comparisons"
    )
    data = store.read(out)
    assert [header.prompt for header in data.headers] == ["a cat", "a dog"]
    winner, loser = data[0].candidates
    assert winner.scores["compressibility"] > loser.scores["compressibility"]
    assert f"compressibility: mean {winner.scores['compressibility']:.2f}"[:22] in said
    assert winner.meta["seed"] in drawn
    assert winner.meta["scheduler"] == "DDIMScheduler"
    assert winner.meta["scorers"] == {"compressibility": "quality 95", "colourfulness": "1"}
    assert len(winner.meta["model_hash"]) == 16
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["build"]["num_candidates"] == 3
    assert manifest["rewards"] == {"compressibility": "quality 95", "colourfulness": "1"}
    assert refused("build", path) == (
        f"{out}: exists already. Set another output, or replace it with --overwrite."
    )

    def never(*_, **__):
        raise AssertionError("nothing is drawn or scored again")

    monkeypatch.setattr("penchant.runs.build.draw", never)
    monkeypatch.setattr(Compressibility, "__call__", never)
    before = [example.id for example in data]
    run("build", path, "--overwrite")
    assert [example.id for example in store.read(out)] == before
    assert "lists" not in run("build", path, "--overwrite", "--set", "pairs.rule=list")
    assert [len(example.candidates) for example in store.read(out)] == [3, 3]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["pair: {rule: all}"], "unknown option 'pair'. Did you mean 'pairs'? Known: "),
        (
            ["pairs: {rule: best}"],
            "pairs.rule: must be one of best-vs-worst, all, adjacent, random, list, got 'best'",
        ),
        (
            ["pairs: {rule: list, min_gap: 1}"],
            "pairs: min-gap: a list keeps all images, got rule list and 1.",
        ),
        (["filters: {near_duplicates: 65}"], "filters.near_duplicates: must be <= 64, got 65."),
    ],
)
def test_a_wrong_build_file_is_one_sentence(build_file, lines, sentence):
    path = build_file(*lines)
    assert refused("build", path).startswith(f"{path}: {sentence}")


def test_what_a_build_cannot_do_is_said(build_file, tmp_path):
    path = build_file()
    assert refused("build", path, "--set", "rewards=[beauty]").startswith(
        f"{path}: rewards.0: unknown reward"
    )
    assert refused("build", path, "--set", "sampling.size=9").startswith(f"{path}: sampling: ")
    assert refused("build", path, "--set", "filters.min_score=1000").startswith(
        f"{tmp_path}/out/pairs.parquet: zero usable rows, got 6 images of 2 prompts: 6 below min_score, "
    )
    assert refused("build", path, "--rule", "all").startswith(f"{path}: a build file names its output, rule")
    assert refused("build", tmp_path) == "penchant data build: needs FOLDER TABLE OUT, or BUILD.yaml."
    assert refused("build", tmp_path, "a.csv", "b.parquet", "--set", "a=b").startswith(
        "--set: only a build file"
    )


def test_a_model_that_its_family_refuses_is_named_with_its_place(build_file, tiny_model, tmp_path):
    other, path = small.without_side(tiny_model, tmp_path / "model"), build_file()
    assert refused("build", path, "--set", f"model={other}") == f"{path}: model: {small.NO_SIDE}"


def test_noise_that_the_scheduler_would_not_read_is_refused(build_file, monkeypatch):
    monkeypatch.setattr("diffusers.DDIMScheduler.step", lambda self, output, timestep, sample: None)
    path = build_file()
    assert refused("build", path, "--set", "sampling.eta=0.5") == (
        f"{path}: sampling.eta: DDIMScheduler does not read it. Set it to 0."
    )


def test_pairs_are_relabelled(tiny_pairs, tmp_path):
    out = tmp_path / "new.parquet"
    said = run(
        "relabel", tiny_pairs, out, "--reward", "{kind: compressibility, quality: 50}", "--split", "test"
    )
    lines = said.splitlines()
    assert lines[-2].startswith(
        f"{out}: 4 of 4 rows; 0 tied or closer than the gap. Agreement with the earlier"
    )
    assert lines[-2].endswith("of 4 comparisons.")
    example = store.read(out)[0]
    assert example.preference == tuple(c.scores["compressibility"] for c in example.candidates)
    assert example.provenance["judge"] == {"name": "compressibility", "version": "quality 50"}
    assert (tmp_path / "new.parquet.scores.sqlite").is_file()
    assert refused("relabel", tiny_pairs, out, "--reward", "style").startswith(f"{out}: exists already.")
    other = tmp_path / "other.parquet"
    assert refused("relabel", tiny_pairs, other, "--reward", "[3]").startswith("--reward: must be a name or")
    assert refused("relabel", tiny_pairs, other, "--reward", "beauty").startswith(
        "--reward: 0: unknown reward"
    )
    assert "zero usable rows" in refused(
        "relabel", tiny_pairs, other, "--reward", "compressibility", "--min-gap", "1000"
    )
