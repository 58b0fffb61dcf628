"""What a run was made from can be told apart later."""

import json
import subprocess
from datetime import UTC, datetime

import pytest

from penchant.errors import ModelError
from penchant.hub import model_hash
from penchant.methods import catalog
from penchant.runs.load import check
from penchant.runs.manifest import git_commit, manifest, method_as_dict, versions
from penchant.runs.override import override


@pytest.fixture
def model(tmp_path):
    """A folder like that of a pipeline."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("a card")
    return tmp_path


def test_the_model_hash_is_that_of_weights_and_configurations(model):
    before = model_hash(model)
    (model / "README.md").write_text("another card")
    assert model_hash(model) == before
    (model / "unet" / "model.safetensors").write_bytes(b"Weights")
    assert model_hash(model) != before


def test_the_model_hash_knows_which_file_is_which(model):
    before = model_hash(model)
    (model / "unet").rename(model / "vae")
    assert model_hash(model) != before


def test_the_model_hash_of_some_parts_is_that_of_these_alone(tmp_path):
    for part in ("unet", "vae", "vae_notes", "text_encoder", "text_encoder_2"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    encoders = model_hash(tmp_path, ("text_encoder*",)), model_hash(tmp_path, ("vae",))
    for part in ("unet", "vae_notes"):
        (tmp_path / part / "config.json").write_text("{1}")
    assert (model_hash(tmp_path, ("text_encoder*",)), model_hash(tmp_path, ("vae",))) == encoders
    (tmp_path / "text_encoder_2" / "config.json").write_text("{1}")
    (tmp_path / "vae" / "new.json").write_text("{}")
    assert model_hash(tmp_path, ("text_encoder*",)) != encoders[0]
    assert model_hash(tmp_path, ("vae",)) != encoders[1]


def test_the_model_hash_does_not_depend_on_where_the_model_lies(model, tmp_path_factory):
    before = model_hash(model)
    assert model_hash(model.rename(tmp_path_factory.mktemp("other") / "moved")) == before


def test_a_file_that_cannot_be_read_is_named(model, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(
        ModelError, match=r"config.json: cannot be read \(Permission denied\)\. Check the file"
    ):
        model_hash(model)


@pytest.mark.parametrize("name", catalog.names())
def test_a_method_written_as_options_builds_the_same_method(name):
    method = catalog.get(name)
    written = method_as_dict(method)
    options = {factor: written[factor] for factor in ("ratio", "objective", "weight", "terms")}
    raw = {"model": "m", "data": {"path": "d"}, "method": name, "training": {"steps": 1}, "output": "x"}
    run = check(raw | options, where="run.yaml")
    assert override(method, run, where="run.yaml") == method


def test_the_manifest_is_plain_json():
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    content = manifest(
        catalog.get("d3po"), seed=7, data_hash="d", model_hash="m", started=started, num_resumed=1
    )
    assert json.loads(json.dumps(content)) == content
    assert content["started"] == "2026-01-02T03:04:05+00:00"
    assert content["seed"] == 7
    assert content["method"]["ratio"]["sampler"]["num_steps"] == 20


def test_versions_name_everything_that_can_change_a_number():
    found = versions()
    assert {
        "python",
        "torch",
        "diffusers",
        "transformers",
        "peft",
        "accelerate",
        "platform",
        "threads",
    } <= set(found)


def test_the_commit_is_marked_when_files_differ(tmp_path):
    assert git_commit(tmp_path) is None

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    commit = git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{commit}+changes"
