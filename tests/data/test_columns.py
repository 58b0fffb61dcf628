"""A column map over parquet and JSONL: every field changes what is read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penchant.data import store
from penchant.data.columns import Columns
from penchant.data.parquet import RowGroups
from penchant.data.stream import open_stream
from penchant.errors import ConfigError, DataError

PAIR = {
    "text": ["p", "q"],
    "left": [b"1", b"2"],
    "right": [b"3", b"4"],
    "note": ["x", None],
    "raw": [b"", b""],
}


def read(tmp_path, columns, **more):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(PAIR | more), path)
    return store.read(path, columns=Columns(prompt="text", images=("left", "right"), **columns))


@pytest.mark.parametrize(
    ("columns", "more", "wanted"),
    [
        ({}, {}, [(1.0, 0.0), (1.0, 0.0)]),
        ({"scores": ("a", "b")}, {"a": [1, 5], "b": [2.5, None]}, [(1.0, 2.5), None]),
        ({"ranks": ("a", "b")}, {"a": [1, 2], "b": [2, 2]}, [(-1.0, -2.0), (-2.0, -2.0)]),
        ({"votes": ("a", "b")}, {"a": [0, 2], "b": [3, 2]}, [(0.0, 3.0), (2.0, 2.0)]),
        ({"winner": "a"}, {"a": [1, None]}, [(0.0, 1.0), None]),
        ({"winner": "a"}, {"a": [1.0, float("nan")]}, [(0.0, 1.0), None]),  # as pandas writes empty cells
    ],
)
def test_what_says_which_is_preferred(tmp_path, columns, more, wanted):
    data = read(tmp_path, columns, **more)
    assert [example.preference for example in data] == wanted
    assert [header.preference for header in data.headers] == wanted
    assert [candidate.image for candidate in data[1].candidates] == [b"2", b"4"]
    assert data[0].provenance == {"note": "x"} and data[1].provenance == {}


def test_lists_in_one_column_and_the_split_of_a_row(tmp_path):
    path = tmp_path / "table.parquet"
    table = {"i": [[b"1", b"2", b"3"]], "s": [[0.5, 1.0, 0.0]], "part": ["test"]}
    pq.write_table(pa.table(table), path)
    example = store.read(path, split="test", columns=Columns(images=("i",), scores=("s",), split="part"))[0]
    assert (example.prompt, example.preference, example.split) == ("", (0.5, 1.0, 0.0), "test")
    best_first = store.read(path, columns=Columns(images=("i",)))
    assert best_first[0].preference == best_first.headers[0].preference == (2.0, 1.0, 0.0)


def test_single_images_with_labels(tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"i": [b"1", b"2", b"3"], "ok": [True, False, None]}), path)
    data = store.read(path, columns=Columns(images=("i",), label="ok"))
    assert [example.candidates[0].label for example in data] == [1, -1, None]
    assert all(header.labelled for header in data.headers)
    pq.write_table(pa.table({"i": [b"1", b"2", b"3"], "ok": [1, -1, float("nan")]}), path)
    data = store.read(path, columns=Columns(images=("i",), label="ok"))
    assert [example.candidates[0].label for example in data] == [1, -1, None]


def test_a_number_too_large_for_a_float_is_refused(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps({"left": "a.png", "right": "b.png", "a": 10**400, "b": 1}))
    with pytest.raises(DataError, match=r"line 1: column 'a', 'b': must be numbers, got 1000+\.\.\.0+\."):
        store.read(path, columns=Columns(images=("left", "right"), scores=("a", "b")))


def test_rows_of_a_group_become_one_example(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = [("x", "a.png", 1), ("y", "b.png", 2), ("x", "c.png", 3)]
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    path.write_text("\n".join(json.dumps({"key": k, "file": f, "s": s, "t": "p"}) for k, f, s in rows))
    columns = Columns(prompt="t", images=("file",), scores=("s",), group="key")
    data = store.read(path, columns=columns)
    assert [example.preference for example in data] == [(1.0, 3.0), (2.0,)]
    assert [candidate.content() for candidate in data[0].candidates] == [b"a", b"c"]
    with pytest.raises(
        DataError, match="no column 'nothing' as `columns` names it. There are: key, file, s, t."
    ):
        store.read(path, columns=Columns(images=("file",), group="nothing"))


@pytest.fixture
def grouped(tmp_path):
    """Opens JSONL in which `g` groups rows of one image `im` each, with prompt `t` and score `s`."""
    (tmp_path / "a.png").write_bytes(b"a")

    def make(*rows, **options):
        path = tmp_path / "table.jsonl"
        lines = [{"im": "a.png", "t": "p", "s": number, "g": "x"} | row for number, row in enumerate(rows)]
        kept = [{name: value for name, value in line.items() if value != "gone"} for line in lines]
        path.write_text("\n".join(json.dumps(line) for line in kept))
        return store.read(path, columns=GROUPED, **options)

    return make


GROUPED = Columns(prompt="t", images=("im",), scores=("s",), group="g")


def test_rows_without_a_group_are_examples_of_their_own(tmp_path, grouped):
    data = grouped({"g": None, "t": "p"}, {}, {"g": None, "t": "q"}, {})
    assert [(e.prompt, e.preference) for e in data] == [("p", (0.0,)), ("p", (1.0, 3.0)), ("q", (2.0,))]
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"im": [b"1", b"2"], "s": [1, 2], "g": [float("nan")] * 2}), path)
    data = store.read(path, columns=Columns(images=("im",), scores=("s",), group="g"))
    assert [example.preference for example in data] == [(1.0,), (2.0,)], "NaN is empty, as pandas writes it"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ({}, {"g": "y"}, {"t": "q"}),
            "line 3: column 't': must be the same in all rows of a group, got 'q', and 'p' in an earlier "
            "row.",
        ),
        (({}, {"g": "gone"}), "line 2: no 'g', got t, s."),
        (
            ({}, {"g": ["x"]}),
            "line 2: column 'g': must be a single value, which the rows of a group share, got ['x'].",
        ),
        (({}, {"s": "gone"}), "line 1: column 's': must be numbers, got None."),
    ],
)
def test_groups_that_cannot_be_joined_are_named(tmp_path, grouped, rows, message):
    with pytest.raises(DataError) as caught:
        grouped(*rows)
    assert str(caught.value) == f"{tmp_path / 'table.jsonl'}: {message}"
    data = grouped(*rows, {"g": "good"}, keep_broken=True)
    assert [str(h.error) for h in data.headers if h.error is not None] == [str(caught.value)]
    assert data[len(data) - 1].preference == (float(len(rows)),)
    stream = open_stream(data.path, columns=GROUPED)
    assert len(list(stream.in_file_order())) == len(data) - 1


def test_a_group_over_two_files_of_a_split_is_refused(tmp_path):
    for name in ("train-1", "train-2", "test"):
        pq.write_table(pa.table({"im": [b"1"], "g": ["x"]}), tmp_path / f"{name}.parquet")
    columns = Columns(images=("im",), group="g")
    with pytest.raises(DataError) as caught:
        store.read(tmp_path, columns=columns)
    assert str(caught.value) == (
        f"{tmp_path / 'train-2.parquet'}: row 1: column 'g': rows of a group must stand in one file, "
        f"got 'x', which is also in {tmp_path / 'train-1.parquet'}. Put its rows together, or name groups "
        "differently in each file."
    )
    (tmp_path / "train-2.parquet").unlink()
    assert len(store.read(tmp_path, columns=columns, keep_broken=True)) == 2


def test_scattered_groups_are_read_in_the_order_of_the_file(tmp_path, monkeypatch):
    path, num_groups, num_images = tmp_path / "table.parquet", 40, 4
    rows = [
        (str(group), f"{group} {image}".encode())
        for image in range(num_images)
        for group in range(num_groups)
    ]
    table = {"g": [group for group, _ in rows], "im": [image for _, image in rows]}
    pq.write_table(pa.table(table), path, row_group_size=20)
    stream = open_stream(path, columns=Columns(images=("im",), group="g"))
    reads = []
    read = RowGroups._group
    monkeypatch.setattr(RowGroups, "_group", lambda self, group: (reads.append(group), read(self, group))[1])
    examples = list(stream.in_file_order())
    assert [c.image for c in examples[7].candidates] == [f"7 {image}".encode() for image in range(num_images)]
    assert reads == list(range(8))


def test_absent_columns_are_named_with_those_that_are_there(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, {"scores": ("good", "bad")})
    assert str(caught.value) == (
        f"{tmp_path / 'table.parquet'}: no column 'good', 'bad' as `columns` names it. There are: text, "
        "left, right, note, raw."
    )


@pytest.mark.parametrize(
    ("columns", "more", "message"),
    [
        (
            {"winner": "a"},
            {"a": [2, 0]},
            "column 'a': must be the number of the preferred image, 0 to 1, got 2.",
        ),
        ({"winner": "a"}, {"a": [True, True]}, "column 'a': must be the number"),
        ({"winner": "a"}, {"a": [0.5, 1.0]}, "column 'a': must be the number"),
        ({"split": "a"}, {"a": [0, 1]}, "column 'a': the split must be text, got 0."),
        ({"scores": ("a", "b")}, {"a": [float("nan")] * 2, "b": [1, 1]}, "column 'a', 'b': must be numbers"),
        (
            {"scores": ("a", "b")},
            {"a": ["x", "y"], "b": ["x", "y"]},
            "column 'a', 'b': must be numbers, got 'x'.",
        ),
        ({"label": "a"}, {"a": [3, 0]}, "column 'a': must be true, false, 1 or -1, got 3."),
        ({}, {"text": [1, 2]}, "column 'text': the prompt must be text, got 1."),
        ({}, {"left": [None, b"1"]}, "no image in 'left'."),
        ({}, {"left": [1.5, 2.0]}, "image 0: must be encoded bytes or a path, got float."),
    ],
)
def test_a_wrong_value_is_named_with_its_row(tmp_path, columns, more, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, columns, **more)[0]
    assert str(caught.value).startswith(f"{tmp_path / 'table.parquet'}: row 1: {message}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"images": ()}, "columns.images: name at least one column, got none."),
        (
            {"images": ("a", "b"), "scores": ("a", "b"), "winner": "c"},
            "columns: at most one of scores, ranks, votes, winner, label says what was preferred, got "
            "scores, winner.",
        ),
        (
            {"images": ("a", "b"), "ranks": ("r",)},
            "columns.ranks: needs one column per image column, got 1 for 2.",
        ),
    ],
)
def test_maps_that_contradict_themselves(columns, message):
    with pytest.raises(ConfigError) as caught:
        Columns(**columns)
    assert str(caught.value) == message
