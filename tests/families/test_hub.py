"""Models of the hub, against a stand-in that copies from a folder: what is fetched, and what is said."""

import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from penchant import families
from penchant import hub as hubs
from penchant.errors import ModelError


@pytest.fixture
def hub(tiny_model, tmp_path, monkeypatch):
    """One repository, with all that a hub repository may hold beside the pipeline."""
    remote = shutil.copytree(tiny_model, tmp_path / "remote")
    weights = remote / "unet" / "diffusion_pytorch_model.safetensors"
    for extra in (
        "model.ckpt", "v1-5.safetensors", "README.md", "unet/old.bin", "unet/code.py",
        "vae/a.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/m.fp16-00001-of-00002.safetensors",
    ):  # fmt: skip
        shutil.copy(weights, remote / extra)
    (remote / "safety_checker").mkdir()
    shutil.copy(weights, remote / "safety_checker" / "model.safetensors")
    asked = []

    def stand_in(repository, *, revision, allow_patterns, ignore_patterns):
        asked.append((repository, revision))
        names = [path.relative_to(remote).as_posix() for path in remote.rglob("*") if path.is_file()]
        for name in filter_repo_objects(
            names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            target = tmp_path / "cache" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(remote / name, target)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hubs, "snapshot_download", stand_in)
    return asked


def failing(monkeypatch, error):
    def stand_in(repository, **options):
        raise error

    monkeypatch.setattr(hubs, "snapshot_download", stand_in)
    with pytest.raises(ModelError) as caught:
        families.resolve("someone/model@v2", where="run.yaml: model")
    return str(caught.value)


def http(kind):
    return kind("first line\nsecond", response=SimpleNamespace(headers={}, request=None))


def test_only_the_pipeline_is_fetched_and_it_loads(hub, tiny_model):
    folder = families.resolve("someone/model@v2")
    assert hub == [("someone/model", "v2")]
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert fetched == {p.relative_to(tiny_model).as_posix() for p in tiny_model.rglob("*") if p.is_file()}
    assert families.load("someone/model").name == "sd15"
    assert hub[1] == ("someone/model", None)


def test_a_folder_that_is_there_comes_first(hub, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "someone" / "model")
    assert str(families.resolve("someone/model")) == "someone/model"
    assert hub == []


@pytest.mark.parametrize("model", ["emoji", "/a/b", "./a", "../a/b", "a/b/c", "a/b@", "~/a"])
def test_a_path_is_no_name_on_the_hub(model):
    assert not hubs.is_name(model)


def test_a_gated_model(monkeypatch):
    assert failing(monkeypatch, http(errors.GatedRepoError)) == (
        "run.yaml: model: someone/model is gated. Accept its conditions on its page on the hub, then log in "
        "with `hf auth login`."
    )


def test_a_name_that_nobody_has(monkeypatch):
    assert failing(monkeypatch, http(errors.RepositoryNotFoundError)) == (
        "run.yaml: model: neither a folder nor a model on the hub, got 'someone/model@v2'. Check the name; "
        "for a private model log in with `hf auth login`."
    )


def test_a_revision_that_is_not_there(monkeypatch):
    assert failing(monkeypatch, http(errors.RevisionNotFoundError)) == (
        "run.yaml: model: someone/model has no revision 'v2'. Give a branch, a tag or a commit of it, as its "
        "page on the hub lists them."
    )


@pytest.mark.parametrize("error", [errors.LocalEntryNotFoundError("x"), errors.OfflineModeIsEnabled("x")])
def test_no_network(monkeypatch, error):
    assert failing(monkeypatch, error) == (
        "run.yaml: model: no folder 'someone/model@v2' here, and the hub cannot be reached. Check the path "
        "or the network, or download the model where there is one and give its folder."
    )


@pytest.mark.parametrize("error", [http(errors.HfHubHTTPError), OSError("first line\nsecond")])
def test_a_download_that_breaks_off(monkeypatch, error):
    assert failing(monkeypatch, error) == (
        "run.yaml: model: someone/model cannot be downloaded (first line). Try again; what has arrived is "
        "kept."
    )
