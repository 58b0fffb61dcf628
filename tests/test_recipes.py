"""The recipes are right run files, and train on a tiny model of their family."""

import json
import re
from pathlib import Path

import pytest
from tests import small

from penchant.runs.assemble import method_of
from penchant.runs.load import load

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_the_index_names_every_recipe():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\S+)\]\(\1\)", index, flags=re.MULTILINE) == [
        "sd15-diffusion-dpo.yaml", "sdxl-diffusion-dpo.yaml", "sd3-diffusion-dpo.yaml",
        "flux-diffusion-dpo.yaml", "sdxl-mapo.yaml", "sd15-kto.yaml",
    ]  # fmt: skip
    assert sorted(re.findall(r"\((\S+\.yaml)\)", index)) == [path.name for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_trains_on_a_tiny_model(path, tiny_models, tiny_pairs, tmp_path):
    text = path.read_text(encoding="utf-8")
    assert "Source:" in text and "\n# Deviations" in text and "Never run here at this size" in text
    changes = {
        "model": str(tiny_models(path.stem.split("-")[0])),
        "data.path": str(tiny_pairs),
        "data.size": 16,
        "data.heldout_split": None,
        "training.steps": 2,
        "training.warmup_steps": 0,
        "training.batch_size": 2,
        "training.micro_batch_size": 1,
        "training.precision": "float32",
        "training.gradient_checkpointing": False,
        "output": str(tmp_path / "run"),
    }
    run = load(path, [f"{name}={json.dumps(value)}" for name, value in changes.items()])
    named = load(path)
    assert method_of(named, where=path.name) == method_of(run, where=path.name)
    assert named.evaluation.metric is not None and run.training.mode == named.training.mode
    folder, shown = small.train(run.model_dump(mode="json"))
    assert "2/2" in shown and (folder.adapter.is_dir() or folder.pipeline.is_dir())
