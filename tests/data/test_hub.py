from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import errors

from penchant.data import hub, store
from penchant.data.columns import Columns
from penchant.data.stream import open_remote_stream
from penchant.errors import DataError


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


def test_a_stream_reads_the_hub_in_pieces_without_a_download(monkeypatch, tmp_path, encoded):
    """The file system of the hub is stood in for by a folder; both are file systems of fsspec."""
    folder = tmp_path / "datasets" / "o" / "n@v2" / "8k" / "data"
    folder.mkdir(parents=True)
    for split, number in (("train", 0), ("train", 1), ("test", 0)):
        rows = {
            "prompt": [f"{split} {number} {row}" for row in range(3)],
            "chosen": [encoded("red")] * 3,
            "rejected": [encoded("blue")] * 3,
        }
        pq.write_table(pa.table(rows), folder / f"{split}-{number:05}-of-00002.parquet", row_group_size=2)
    (folder / "script.py").write_text("raise SystemExit")
    monkeypatch.setattr(hub, "HfFileSystem", lambda: DirFileSystem(str(tmp_path), LocalFileSystem()))
    data = hub.remote("o/n@v2", config="8k", where="run.yaml: data.path")
    stream = open_remote_stream(data, split="train", where="run.yaml: data.path")
    assert [row.prompt for row in stream.in_file_order()] == [
        f"train {n} {row}" for n in (0, 1) for row in range(3)
    ]
    assert list(stream.prompts()) == [row.prompt for row in stream.in_file_order()]
    assert len(stream) == 6 and len(stream.content_hash) == 64
    with pytest.raises(DataError, match="datasets/o/n@v2/8k: unknown split 'dev'. Known: test, train."):
        open_remote_stream(data, split="dev", where="x")
    opened, real = [], store._open
    monkeypatch.setattr(store, "_open", lambda file, *rest: opened.append(file.name) or real(file, *rest))
    with pytest.raises(DataError, match="unknown split"):
        open_remote_stream(data, split="dev", where="x")
    assert opened == [], "requests are made only if the map names the column of the split"
    pq.write_table(pa.table(rows | {"part": ["dev", "test", None]}), folder / "test-00000-of-00002.parquet")
    columns = Columns(prompt="prompt", images=("chosen", "rejected"), split="part")
    table = hub.RemoteData(data.root, [file for file in data.files if file.name.startswith("test")])
    assert len(open_remote_stream(table, split="dev", columns=columns, where="x")) == 1
    assert len(open_remote_stream(table, split="test", columns=columns, where="x")) == 2
    plain = hub.RemoteData("datasets/o/n", [file for file in data.files if file.suffix == ".py"])
    with pytest.raises(DataError, match="x: no .parquet, .tar in datasets/o/n, which can be read from afar."):
        open_remote_stream(plain, where="x")
    pq.write_table(
        pa.table({"prompt": ["p"], "chosen": ["a.png"], "rejected": ["b.png"]}), folder / "a.parquet"
    )
    names = open_remote_stream(hub.remote("o/n@v2", where="x"), where="x")
    (broken,) = [row for row in names.read(names._blocks[:1])]
    assert "an image in a file of its own cannot be streamed from the hub." in str(broken)
