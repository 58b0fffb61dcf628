import hashlib

import pytest

from penchant.data import store
from penchant.data.dataset import count_usable, require_usable
from penchant.errors import DataError
from penchant.shapes import Shape


def test_a_data_set_is_a_sequence_of_examples(pickapic):
    data = store.read(pickapic(4))
    assert len(data) == 4
    assert [example.prompt for example in data] == [f"prompt {i}" for i in range(4)]
    assert data[-1].prompt == "prompt 3"
    with pytest.raises(IndexError):
        data[4]


def test_slices_and_selections_keep_the_rows_of_the_file(pickapic):
    data = store.read(pickapic(5))
    some = data[1:].select([3, 0])
    assert [example.prompt for example in some] == ["prompt 4", "prompt 1"]
    assert [header.row for header in some.headers] == [5, 2]
    assert some.content_hash == data.content_hash


def test_the_content_hash_of_a_file_is_its_sha256(pickapic):
    path = pickapic(2)
    assert store.read(path).content_hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_content_hash_of_a_folder_changes_with_each_file(tmp_path, encoded):
    for name, colour in (("a__0.png", "red"), ("a__1.png", "blue")):
        (tmp_path / name).write_bytes(encoded(colour))
    (tmp_path / "a.txt").write_text("a prompt")
    hashes = {store.read(tmp_path).content_hash}
    (tmp_path / "a__1.png").write_bytes(encoded("green"))
    hashes.add(store.read(tmp_path).content_hash)
    (tmp_path / "a.txt").write_text("another prompt")
    hashes.add(store.read(tmp_path).content_hash)
    assert len(hashes) == 3
    assert store.read(tmp_path).content_hash in hashes


def test_rows_with_a_winner_are_usable(pickapic):
    data = store.read(pickapic(4, label_0=[1.0, 0.5, 0.0, None]))
    assert count_usable(data, Shape.PAIR) == require_usable(data, Shape.RANKED) == 2


def test_single_labels_are_usable_one_by_one_but_not_as_pairs(tmp_path):
    path = tmp_path / "liked.jsonl"
    path.write_text('{"prompt": "p", "text": "t", "label": true}\n')
    data = store.read(path)
    assert require_usable(data, Shape.UNARY) == 1
    with pytest.raises(DataError) as error:
        require_usable(data, Shape.PAIR)
    assert str(error.value) == (
        f"{path}: zero usable rows for a pair method, got 1 rows: 0 tied, 1 without a preference between "
        "candidates. Label some rows."
    )


def test_only_ties_are_refused(pickapic):
    path = pickapic(3, label_0=[0.5, 0.5, 0.5])
    with pytest.raises(DataError) as error:
        require_usable(store.read(path), Shape.PAIR)
    assert str(error.value) == (
        f"{path}: only ties, got 3 of 3 rows with equal scores. At least one row must prefer one candidate."
    )


def test_ties_and_unjudged_rows_are_counted_when_nothing_is_usable(pickapic):
    path = pickapic(3, label_0=[0.5, None, None])
    with pytest.raises(DataError) as error:
        require_usable(store.read(path), Shape.PAIR)
    assert str(error.value) == (
        f"{path}: zero usable rows for a pair method, got 3 rows: 1 tied, 2 without a preference between "
        "candidates. Label some rows."
    )
