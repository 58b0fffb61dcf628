import io
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penchant.data import parquet, store
from penchant.data.recent import Recent
from penchant.data.rows import Candidate, Example
from penchant.errors import DataError


@pytest.fixture
def examples(encoded):
    full = Candidate(
        image=encoded("red"),
        scores={"clip": 0.25, "aesthetic": -1.0},
        votes=3,
        style="fluent",
        source="somewhere",
        license="MIT",
        mask=b"\x01\x02",
        segments=(0.5, 1.0),
        meta={"seed": 7, "nested": [1, None]},
    )
    return [
        Example(
            prompt="three",
            candidates=(full, Candidate(image=encoded("green")), Candidate(image=encoded("blue"))),
            preference=(2.0, 0.5, 0.5),
            split="train",
            provenance={"by": "us"},
        ),
        Example(prompt="", candidates=(Candidate(text="a text"), Candidate(text="")), preference=(0.0, 1.0)),
        Example(prompt="single", candidates=(Candidate(image=encoded("red"), label=-1),), split="test"),
    ]


def refused(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)


def test_what_is_written_is_read_back(tmp_path, examples):
    path = tmp_path / "new" / "own.parquet"
    assert store.write_parquet(examples, path) == 3
    data = store.read(path)
    assert list(data) == examples
    assert [header.prompt for header in data.headers] == ["three", "", "single"]
    assert [header.preference for header in data.headers] == [(2.0, 0.5, 0.5), (0.0, 1.0), None]
    assert [header.split for header in data.headers] == ["train", None, "test"]
    assert [header.labelled for header in data.headers] == [False, False, True]
    assert data[1].where == f"{path}: row 2"
    assert data[0].candidates[1].where == f"{path}: row 1: candidate 1"


def test_rows_are_found_across_row_groups(tmp_path, monkeypatch, examples):
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 2)
    monkeypatch.setattr(store, "Recent", lambda limit=0: Recent(limit))
    path = tmp_path / "groups.parquet"
    store.write_parquet(examples * 3, path)
    assert pq.ParquetFile(path).num_row_groups == 5
    data = store.read(path)
    assert [data[i] for i in (8, 0, 4, 3, 8)] == [examples[i % 3] for i in (8, 0, 4, 3, 8)]


class Counted:
    """A place that counts the bytes that are read from it."""

    def __init__(self, path):
        self.path, self.name, self.suffix, self.bytes = path, path.name, path.suffix, 0

    def open(self, mode):
        counted = self

        class Opened(io.FileIO):
            def read(self, size=-1):
                content = super().read(size)
                counted.bytes += len(content)
                return content

        return Opened(self.path, mode)

    def stat(self):
        return self.path.stat()


def test_the_footer_is_read_once_for_all_row_groups(tmp_path):
    path = tmp_path / "wide.parquet"
    numbers = {f"number {column}": list(range(100)) for column in range(30)}
    captions = [f"caption {row}" for row in range(100)]
    pq.write_table(pa.table({"caption": captions} | numbers), path, row_group_size=1)
    place = Counted(path)
    groups = parquet.RowGroups(place, Recent())
    size, opening = path.stat().st_size, place.bytes
    assert 0 < opening <= size
    assert [row["caption"] for row in groups.light(["caption"])] == captions
    assert place.bytes - opening < size / 10  # one column of 31; a footer a group is 75 times the file
    assert groups.row(42)["number 29"] == 42
    assert place.bytes < 1.2 * size


def test_a_file_that_exists_is_kept(tmp_path, examples):
    path = tmp_path / "kept.parquet"
    path.write_bytes(b"precious")
    assert refused(lambda: store.write_parquet(examples, path)) == (
        f"{path}: exists already. Choose another name, or replace it with --overwrite."
    )
    assert path.read_bytes() == b"precious"
    store.write_parquet(examples, path, overwrite=True)
    assert len(store.read(path)) == 3


def test_a_failure_half_way_keeps_the_old_file_and_leaves_no_rest(tmp_path, examples):
    path = tmp_path / "kept.parquet"
    path.write_bytes(b"precious")
    lost = Example(prompt="p", candidates=(Candidate(image=tmp_path / "lost.png", where="f: line 9"),))
    message = refused(lambda: store.write_parquet([*examples, lost], path, overwrite=True))
    assert message == "f: line 9: cannot read the image (No such file or directory)."
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.parquet"]


def test_nothing_is_not_written(tmp_path):
    path = tmp_path / "none.parquet"
    assert refused(lambda: store.write_parquet([], path)) == f"{path}: nothing to write, got 0 examples."
    assert not path.exists()


def test_only_parquet_is_written(tmp_path, examples):
    path = tmp_path / "rows.csv"
    assert refused(lambda: store.write_parquet(examples, path)) == (
        f"{path}: unknown file type to write, got '.csv'. Known: .parquet."
    )


def test_a_place_that_cannot_be_written_is_named(tmp_path, examples):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "out.parquet"
    assert refused(lambda: store.write_parquet(examples, path)) == (
        f"{path}: cannot be written (File exists)."
    )


def test_a_full_disk_keeps_the_old_file_and_leaves_no_rest(tmp_path, examples):
    path = tmp_path / "kept.parquet"
    path.write_bytes(b"precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # stands for a disk that fills up
    try:
        message = refused(lambda: store.write_parquet(examples, path, overwrite=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"{path}: cannot be written (")
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.parquet"]


def test_a_newer_file_is_refused(tmp_path, examples):
    path = tmp_path / "new.parquet"
    store.write_parquet(examples, path)
    table = pq.read_table(path).replace_schema_metadata({b"penchant.schema_version": b"2"})
    pq.write_table(table, path)
    assert refused(lambda: store.read(path)) == (
        f"{path}: written in a newer format, got schema version 2. "
        "This Penchant reads up to version 1; update it."
    )


def test_a_changed_column_of_the_own_layout_is_refused(tmp_path, examples):
    path = tmp_path / "own.parquet"
    store.write_parquet(examples, path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["split"]), path)
    assert refused(lambda: store.read(path)) == (
        f"{path}: column 'split': missing, got prompt, candidates, preference, provenance. "
        "Needed: prompt, candidates, preference, split, provenance."
    )
    pq.write_table(table.set_column(0, "prompt", pa.array([1, 2, 3])), path)
    assert refused(lambda: store.read(path)) == f"{path}: column 'prompt': must be string, got int64."


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_truncated_file_is_refused(pickapic, kept):
    path = pickapic()
    path.write_bytes(path.read_bytes()[:kept])
    assert refused(lambda: store.read(path)) == (
        f"{path}: not a complete parquet file: its end is missing or damaged. Copy or download it again."
    )


def test_a_damaged_middle_is_refused_where_it_is_read(pickapic):
    path = pickapic()
    whole = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    whole[start : start + 40] = b"\xff" * 40
    path.write_bytes(whole)
    message = refused(lambda: store.read(path)[0])
    assert message.startswith(f"{path}: damaged parquet file (")
    assert message.endswith("). Copy or download it again.")


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "none.parquet"
    pq.write_table(pa.table({"caption": pa.array([], pa.string())}), path)
    assert refused(lambda: store.read(path)) == f"{path}: no rows, got columns caption only."
