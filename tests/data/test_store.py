import json
import os

import pytest

from penchant.data import store
from penchant.data.columns import Columns
from penchant.data.rows import as_pairs, as_ranked, as_unary
from penchant.data.stream import open_stream
from penchant.errors import DataError


def refused(path, **options):
    with pytest.raises(DataError) as error:
        store.read(path, **options)
    return str(error.value)


def test_every_layout_means_the_same_after_conversion(tmp_path, pickapic, encoded):
    (tmp_path / "mine").mkdir()
    for rank, colour in enumerate(["red", "green", "blue"]):
        (tmp_path / "mine" / f"a__{rank}.png").write_bytes(encoded(colour))
    (tmp_path / "mine" / "a.txt").write_text("prompt")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"prompt": "p", "chosen": "mine/a__0.png", "rejected": "mine/a__1.png"}\n')
    for source in (pickapic(3, label_0=[1.0, 0.0, 0.5]), tmp_path / "mine", lines):
        read = store.read(source)
        own = tmp_path / f"own-{source.name}.parquet"
        store.write_parquet(read, own)
        back = store.read(own)
        assert [e.id for e in back] == [e.id for e in read]
        for before, after in zip(read, back, strict=True):
            assert (after.prompt, after.preference) == (before.prompt, before.preference)
            assert after.provenance == before.provenance
            for derive in (as_pairs, as_unary, as_ranked):
                assert contents(derive(after)) == contents(derive(before))


def contents(derived):
    """The derivation with images as bytes, whether they were paths or bytes."""
    if isinstance(derived, list | tuple):
        return [contents(item) for item in derived]
    return derived.content() if hasattr(derived, "content") else derived


def test_a_path_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "lost.parquet"
    known = "Known: .parquet, .tar, .jsonl, .json, or a folder of such files or of images."
    assert refused(path) == f"{path}: no such file or folder. {known}"
    assert refused(path, where="run.yaml: data.path") == (
        f"run.yaml: data.path: {path}: no such file or folder. {known}"
    )


def test_a_row_keeps_its_split_whatever_the_name_of_its_file_tells(tmp_path, pickapic):
    path = pickapic(3, name="my-training-pairs.parquet", split=["validation", "train", None])
    assert [example.prompt for example in store.read(path, split="validation")] == ["prompt 0"]
    assert [example.prompt for example in store.read(path, split="train")] == ["prompt 1", "prompt 2"]
    assert refused(path, split="dev") == f"{path}: unknown split 'dev'. Known: train, validation."
    own = tmp_path / "pairs-test.parquet"
    store.write_parquet(store.read(path), own)
    assert [example.prompt for example in store.read(own, split="train")] == ["prompt 1", "prompt 2"]
    assert len(open_stream(own, split="train")) == 2
    assert [example.prompt for example in store.read(tmp_path, split="validation")] == ["prompt 0"] * 2


def test_a_file_of_another_split_by_its_name_may_hold_something_else(tmp_path, pickapic):
    pickapic(2, name="train.parquet")
    alone = store.read(tmp_path, split="train").content_hash
    pickapic(2, name="test.parquet", drop=("jpg_0", "jpg_1"))
    data = store.read(tmp_path, split="train")
    assert len(data) == 2 and data.content_hash == alone
    assert refused(tmp_path, split="dev") == f"{tmp_path}: unknown split 'dev'. Known: test, train."


def test_a_file_that_may_hold_the_split_is_never_dropped_unread(tmp_path, pickapic):
    pickapic(2, name="a.parquet", split=["train"] * 2)
    other = pickapic(2, name="latest test.parquet", split=["train"] * 2)
    assert len(store.read(tmp_path, split="train")) == 4
    other.write_bytes(other.read_bytes()[:-9])
    assert refused(tmp_path, split="train").startswith(f"{other}: not a complete parquet file")


def test_a_group_in_two_files_of_another_split_is_refused(tmp_path):
    for name in ("test_a", "test_b"):
        lines = [{"i": f"{name}{n}.png", "r": n, "g": 7, "s": "train"} for n in range(2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    columns = Columns(images=("i",), ranks=("r",), group="g", split="s")
    assert "column 'g': rows of a group must stand in one file" in refused(
        tmp_path, split="train", columns=columns
    )


def test_files_of_other_splits_stay_closed_where_one_tells_the_split(tmp_path, pickapic, monkeypatch):
    for name in ("train/0000", "train/0001", "validation/0000"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pickapic(2, name=f"{name}.parquet", split=["train", "validation"])
    opened, real = [], store._open
    monkeypatch.setattr(store, "_open", lambda file, *rest: opened.append(file) or real(file, *rest))
    assert len(open_stream(tmp_path, split="validation")) == 1
    assert opened == [tmp_path / "validation" / "0000.parquet"]


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "data-00000-of-00001.parquet"])
def test_rows_of_a_numbered_shard_keep_their_splits(tmp_path, pickapic, name):
    path = pickapic(3, name=name, split=["train", "validation", None])
    for place in (path, tmp_path):
        assert [example.prompt for example in store.read(place, split="validation")] == ["prompt 1"]
        assert store.read(place, split="train")[0].prompt == "prompt 0"


def test_an_unknown_file_type_is_named_with_the_known_ones(tmp_path):
    path = tmp_path / "pairs.xlsx"
    path.write_text("x")
    assert refused(path) == (
        f"{path}: unknown file type, got '.xlsx'. "
        "Known: .parquet, .tar, .jsonl, .json, or a folder of such files or of images."
    )


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"none.{suffix}"
    path.touch()
    assert refused(path) == f"{path}: empty file, got 0 bytes."


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "pairs.jsonl"
    path.write_text("{}\n")

    def no_permission(*_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(store, "JsonLines", no_permission)  # chmod does not stop root, who runs the tests
    assert refused(path) == f"{path}: cannot be read (Permission denied)."
