from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from penchant.data import hub
from penchant.errors import DataError


@pytest.mark.parametrize("name", ["owner/name", "owner/name@v1.0", "o/n@refs/convert/parquet"])
def test_names_of_the_hub(name):
    assert hub.is_name(name)


@pytest.mark.parametrize("name", ["pairs", "./a/b", "a/b/c", "../a", "/a/b", "a/b@"])
def test_paths_are_no_names(name):
    assert not hub.is_name(name)


def test_only_rows_and_images_are_fetched_and_never_code(monkeypatch):
    calls = []

    def fetched(repository, **options):
        calls.append((repository, options))
        return "/cache/snapshot"

    monkeypatch.setattr(hub, "snapshot_download", fetched)
    assert hub.download("o/n@v2", where="x") == Path("/cache/snapshot")
    assert hub.download("o/n", config="8k", where="x") == Path("/cache/snapshot/8k")
    (first, options), (_, narrow) = calls
    assert (first, options["revision"], options["repo_type"]) == ("o/n", "v2", "dataset")
    assert {"*.parquet", "*.tar", "*.zip", "*.png"} <= set(options["allow_patterns"])
    assert not any(pattern.endswith((".py", ".pkl", "*")) for pattern in options["allow_patterns"])
    assert all(pattern.startswith("8k/*.") for pattern in narrow["allow_patterns"])


@pytest.mark.parametrize("kind", [errors.RepositoryNotFoundError, errors.OfflineModeIsEnabled])
def test_what_cannot_be_had_is_named(monkeypatch, kind):
    def failing(*words, **options):
        if issubclass(kind, errors.HfHubHTTPError):
            raise kind("first line\nsecond", response=SimpleNamespace(headers={}, request=None))
        raise kind("first line\nsecond")

    monkeypatch.setattr(hub, "snapshot_download", failing)
    with pytest.raises(DataError) as caught:
        hub.download("o/n", where="run.yaml: data.path")
    assert str(caught.value) == (
        "run.yaml: data.path: neither a file nor a folder here, and data set 'o/n' cannot be had from the "
        "hub (first line). Check the name, the revision and the network; for a private or gated one log in "
        "with `hf auth login`."
    )
