"""Models of the hub, against a stand-in that copies from a folder: what is fetched, and what is said."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from penchant import families
from penchant import hub as hubs
from penchant.errors import ModelError
from penchant.families import tiny


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
    for other in ("safety_checker", "vae_1_0", "text_encoders"):  # the index names none of them
        (remote / other).mkdir()
        shutil.copy(weights, remote / other / "model.safetensors")
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


IMPOSSIBLE = ["runs/my--model", "runs/my..model", "foo/x.git", "foo/bar-", f"foo/{'x' * 97}"]
"""Names that no repository can have."""


def failing(monkeypatch, error):
    def stand_in(repository, **options):
        raise error

    monkeypatch.setattr(hubs, "snapshot_download", stand_in)
    with pytest.raises(ModelError) as caught:
        families.resolve("someone/model@v2", where="run.yaml: model")
    return str(caught.value)


def http(kind):
    return kind("first line\nsecond", response=SimpleNamespace(headers={}, request=None))


def test_only_the_pipeline_and_its_card_are_fetched_and_it_loads(hub, tiny_model):
    folder = families.resolve("someone/model@v2")
    assert set(hub) == {("someone/model", "v2")}
    (folder / "README.md").unlink()
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert fetched == {p.relative_to(tiny_model).as_posix() for p in tiny_model.rglob("*") if p.is_file()}
    assert families.load("someone/model").name == "sd15"
    assert hub[-1] == ("someone/model", None)


def test_a_chat_template_is_fetched_and_counts(hub, tmp_path):
    folder = tiny.z_image(tmp_path / "remote")
    template = families.resolve("someone/model") / "tokenizer" / "chat_template.jinja"
    assert template.read_text() == (folder / "tokenizer" / "chat_template.jinja").read_text()
    found = families.load("someone/model").encode_prompts(["a"])["prompt"]
    assert torch.equal(found, families.load(str(folder)).encode_prompts(["a"])["prompt"])
    before = hubs.model_hash(tmp_path / "cache")
    template.write_text("another")
    assert hubs.model_hash(tmp_path / "cache") != before


def test_a_vocabulary_of_pieces_is_fetched_where_it_is_the_only_one(hub, tmp_path):
    """Elsewhere it is not read, and would change the hash of models that are in use."""
    remote = tiny.flux(tmp_path / "remote")
    for name in ("tokenizer", "tokenizer_2"):
        (remote / name / "spiece.model").write_bytes(b"pieces")
    (remote / "tokenizer_2" / "tokenizer.json").unlink()
    folder = families.resolve("someone/model")
    assert (folder / "tokenizer_2" / "spiece.model").is_file()
    assert not (folder / "tokenizer" / "spiece.model").exists()


def test_a_repository_that_is_no_pipeline(hub, tmp_path):
    (tmp_path / "remote" / "model_index.json").unlink()
    with pytest.raises(ModelError) as caught:
        families.resolve("someone/model", where="run.yaml: model")
    assert str(caught.value) == (
        "run.yaml: model: someone/model on the hub is no pipeline in diffusers' form, it has no "
        "model_index.json. Give one that has, or download a checkpoint of one file and give its path."
    )


def test_a_folder_that_is_there_comes_first(hub, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "someone" / "model")
    assert str(families.resolve("someone/model")) == "someone/model"
    assert hub == []


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name@v1.0", ("owner/name", "v1.0")),
        ("o/n-1.x@refs/convert/parquet", ("o/n-1.x", "refs/convert/parquet")),
    ],
)
def test_names_of_the_hub(name, parts):
    assert hubs.is_name(name)
    assert hubs.repository_and_revision(name) == parts


@pytest.mark.parametrize("model", ["emoji", "/a/b", "./a", "../a/b", "a/b/c", "a/b@", "~/a", *IMPOSSIBLE])
def test_a_path_is_no_name_on_the_hub(model):
    assert not hubs.is_name(model)


@pytest.mark.parametrize("model", IMPOSSIBLE)
def test_a_folder_that_is_missing_and_can_be_no_name(model):
    with pytest.raises(ModelError, match=f"^run.yaml: model: no model folder '{model}'. Give a folder"):
        families.resolve(model, where="run.yaml: model")


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
