"""`penchant demo` trains, evaluates and reports, in this order, on the recipe in the package."""

from importlib.resources import as_file, files
from pathlib import Path

from penchant.cli.demo import demo
from penchant.methods import catalog
from penchant.runs.load import load
from penchant.runs.override import override


def test_the_recipe_is_a_right_run_file():
    with as_file(files("penchant") / "assets" / "demo.yaml") as recipe:
        run = load(recipe)
    assert (run.model, run.data.path, run.method) == ("emoji", "emoji-pairs", "diffusion-dpo")
    override(catalog.get(run.method), run, where="demo.yaml")


def test_the_steps_follow_each_other_into_one_folder(monkeypatch):
    calls = []

    def train(recipe, assignments, *, overwrite):
        calls.append(("train", load(recipe, assignments).output, overwrite))

    monkeypatch.setattr("penchant.cli.train.train", train)
    monkeypatch.setattr("penchant.cli.evaluate.evaluate", lambda folder: calls.append(("evaluate", folder)))
    monkeypatch.setattr("penchant.cli.report.report", lambda folder: calls.append(("report", folder)))
    folder = Path("runs/it: mine #1")
    demo(folder, overwrite=True)
    assert calls == [("train", str(folder), True), ("evaluate", folder), ("report", folder)]
