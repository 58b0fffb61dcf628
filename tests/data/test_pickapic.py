import datetime
import logging

import pyarrow as pa
import pytest

from penchant.data import store
from penchant.data.rows import as_pairs
from penchant.errors import DataError


def refused(path, position=None):
    with pytest.raises(DataError) as error:
        data = store.read(path)
        data[position]
    return str(error.value)


def test_labels_become_scores_and_the_winner_follows_label_0(pickapic, encoded):
    # three wins, two losses, one tie, one row nobody judged: five pairs
    labels = [1.0, 1.0, 1.0, 0.0, 0.0, 0.5, None]
    data = store.read(pickapic(7, label_0=labels))
    assert [e.preference for e in data] == [*[(1.0, 0.0)] * 3, *[(0.0, 1.0)] * 2, (0.5, 0.5), None]
    assert [e.preference for e in data] == [header.preference for header in data.headers]
    pairs = [pair for example in data for pair in as_pairs(example)]
    assert len(pairs) == 5
    assert [winner.image for winner, _ in pairs][:4] == [
        *(encoded((200, i, 0)) for i in range(3)),
        encoded((0, 3, 200)),
    ]


def test_label_1_may_be_left_out_and_labels_may_be_integers(pickapic):
    data = store.read(pickapic(2, label_0=[1, 0], drop=["label_1"]))
    assert [header.preference for header in data.headers] == [(1.0, 0.0), (0.0, 1.0)]


def test_rows_marked_as_unlabelled_have_no_preference(pickapic):
    data = store.read(pickapic(2, has_label=[False, True], label_0=[3.0, 1.0], label_1=[0.0, 0.0]))
    assert [e.preference for e in data] == [None, (1.0, 0.0)]


def test_further_columns_are_kept(pickapic):
    data = store.read(
        pickapic(
            1,
            style_0=["flat"],
            style_1=["glossy"],
            source_0=["a"],
            source_1=["b"],
            license_0=["MIT"],
            license_1=["CC0-1.0"],
            model_0=["sd"],
            model_1=["xl"],
            user_id=[4],
            image_0_uid=["u"],
            created_at=pa.array([datetime.datetime(2026, 1, 2)], pa.timestamp("ns")),
            nothing=pa.array([None], pa.string()),
            split=["test"],
        )
    )
    left, right = data[0].candidates
    assert (left.style, left.source, left.license, left.meta) == ("flat", "a", "MIT", {"model": "sd"})
    assert (right.style, right.source, right.license, right.meta) == (
        "glossy",
        "b",
        "CC0-1.0",
        {"model": "xl"},
    )
    assert data[0].provenance == {"user_id": 4, "image_0_uid": "u", "created_at": "2026-01-02 00:00:00"}
    assert data[0].split == "test"


def test_binary_columns_that_are_not_kept_are_named(pickapic, caplog):
    path = pickapic(1, latent=[b"123"])
    with caplog.at_level(logging.WARNING):
        assert store.read(path)[0].provenance == {}
    assert caplog.messages == [f"{path}: binary columns are not kept: latent"]


def test_images_may_be_stored_as_hugging_face_datasets_do(pickapic, encoded):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = pickapic(1, jpg_0=pa.array([{"bytes": encoded("red"), "path": None}], kind))
    assert store.read(path)[0].candidates[0].image == encoded("red")


def test_a_split_is_selected(pickapic):
    path = pickapic(3, split=["train", "test", "train"])
    assert [header.row for header in store.read(path, split="train").headers] == [1, 3]
    with pytest.raises(DataError) as error:
        store.read(path, split="validation")
    assert str(error.value) == f"{path}: unknown split 'validation'. Known: test, train."


def test_a_split_of_a_file_without_splits_is_refused(pickapic):
    path = pickapic()
    with pytest.raises(DataError) as error:
        store.read(path, split="train")
    assert str(error.value) == (
        f"{path}: no row has a split, got split 'train'. "
        "Make splits with `penchant data split`, or leave the split out."
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, 1.0, 3.0], "row 3: column 'label_0': label must be 0, 0.5 or 1, got 3."),
        ([1.0, 0.25, 1.0], "row 2: column 'label_0': label must be 0, 0.5 or 1, got 0.25."),
        ([float("nan"), 1.0, 1.0], "row 1: column 'label_0': label must be 0, 0.5 or 1, got nan."),
    ],
)
def test_a_wrong_label_is_named_with_its_row(pickapic, labels, message):
    path = pickapic(3, label_0=labels)
    assert refused(path) == f"{path}: {message}"


def test_a_wrong_label_1_is_named(pickapic):
    path = pickapic(1, label_1=[7.0])
    assert refused(path) == f"{path}: row 1: column 'label_1': label must be 0, 0.5 or 1, got 7."
    path = pickapic(2, label_1=[0.0, 1.0])
    assert refused(path) == (
        f"{path}: row 2: column 'label_1': label_0 and label_1 must add up to 1, got 1 and 1."
    )


@pytest.mark.parametrize("column", ["caption", "jpg_0", "jpg_1", "label_0"])
def test_a_missing_column_is_named(pickapic, column):
    path = pickapic(1, drop=[column])
    left = [name for name in ("caption", "jpg_0", "jpg_1", "label_0", "label_1") if name != column]
    assert refused(path) == (
        f"{path}: column {column!r}: missing, got {', '.join(left)}. Needed: caption, jpg_0, jpg_1, label_0."
    )


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("caption", [1], "must be text, got int64."),
        ("jpg_1", ["a.png"], "must be binary, an encoded image, got string."),
        ("label_0", ["first"], "must be a number, got string."),
        ("label_1", ["second"], "must be a number, got string."),
        ("split", [1], "must be text, got int64."),
        ("style_0", [1], "must be text, got int64."),
        ("has_label", [1], "must be true or false, got int64."),
    ],
)
def test_a_column_of_the_wrong_type_is_named(pickapic, column, values, message):
    path = pickapic(1, **{column: values})
    assert refused(path) == f"{path}: column {column!r}: {message}"
