"""Small real files: images of one colour, and the layouts that hold them."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def encoded():
    """Encoded bytes of an image of one colour."""

    def make(colour="red", size=(8, 8), kind="PNG"):
        out = io.BytesIO()
        Image.new("RGB", size, colour).save(out, kind)
        return out.getvalue()

    return make


@pytest.fixture
def pickapic(tmp_path, encoded):
    """Writes a parquet file with the columns of Pick-a-Pic; named columns replace or extend the defaults."""

    def write(num_rows=3, name="pairs.parquet", drop=(), **columns):
        table = {
            "caption": [f"prompt {i}" for i in range(num_rows)],
            "jpg_0": [encoded((200, i, 0)) for i in range(num_rows)],
            "jpg_1": [encoded((0, i, 200)) for i in range(num_rows)],
            "label_0": [1.0] * num_rows,
            "label_1": None,
        } | columns
        if table["label_1"] is None and isinstance(table["label_0"][0], float | int):
            table["label_1"] = [None if x is None else 1 - x for x in table["label_0"]]
        path = tmp_path / name
        pq.write_table(pa.table({k: v for k, v in table.items() if k not in drop and v is not None}), path)
        return path

    return write


@pytest.fixture
def tar(tmp_path):
    """Writes a tar file of members in order: `(name, bytes)`."""

    def write(members, name="shard-00000.tar"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return write
