"""Every published layout, by synthetic files of its schema: recognised, and best first."""

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penchant.data import store
from penchant.data.rows import as_pairs
from penchant.data.stream import open_stream
from penchant.errors import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_images(folder, encoded, **colours):
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in colours.items():
        (folder / f"{name}.png").write_bytes(encoded(colour))


def feature(*images):
    """A column of images as Hugging Face datasets store them."""
    return pa.array([{"bytes": image, "path": None} for image in images], IMAGE)


def test_hpdv2(tmp_path, encoded):
    write_images(tmp_path / "train", encoded, a="red", b="blue")
    write_images(tmp_path / "test", encoded, c="red", d="lime", e="blue")
    write_json(
        tmp_path / "train.json",
        [{"prompt": "p", "file_path": ["a.png", "b.png"], "human_preference": [0, 1]}],
    )
    write_json(
        tmp_path / "test.json",
        [
            {
                "prompt": "q",
                "image_path": ["c.png", "d.png", "e.png"],
                "rank": [2, 3, 1],
                "raw_annotations": [{"rank": [2, 3, 1], "user_hash": "x"}],
            }
        ],
    )
    write_json(tmp_path / "anime.json", ["benchmark prompts", "are no pairs"])
    train, test = (store.read(tmp_path, split=name)[0] for name in ("train", "test"))
    assert (train.prompt, train.preference, train.split) == ("p", (0.0, 1.0), "train")
    assert as_pairs(train)[0][0].content() == encoded("blue")
    assert test.preference == (-2.0, -3.0, -1.0)
    assert [pair[0].content() for pair in as_pairs(test)] == [encoded("blue")] * 2 + [encoded("red")]
    assert test.provenance == {"raw_annotations": [{"rank": [2, 3, 1], "user_hash": "x"}]}
    assert [header.split for header in store.read(tmp_path).headers] == ["test", "train"]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_hpdv3(tmp_path, encoded, kind):
    write_images(tmp_path / "images", encoded, good="red", bad="blue")
    row = {
        "prompt": "p",
        "path1": "images/good.png",
        "path2": "images/bad.png",
        "model1": "flux",
        "model2": "sd2",
        "confidence": 0.98,
        "choice_dist": [12, 7],
    }
    path = tmp_path / f"train.{kind}"
    path.write_text(json.dumps([row] if kind == "json" else row))
    example = store.read(path)[0]
    assert [c.content() for c in example.candidates] == [encoded("red"), encoded("blue")]
    assert example.preference == (1.0, 0.0)
    assert example.provenance == {
        "model1": "flux",
        "model2": "sd2",
        "confidence": 0.98,
        "choice_dist": [12, 7],
    }


@pytest.mark.parametrize("harm", ["damaged", "encrypted", "unknown"])
def test_a_zip_file_whose_member_cannot_be_read(tmp_path, encoded, harm):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.png", b"a" * 1000)
    content = bytearray(archive.read_bytes())
    central = content.index(b"PK\x01\x02")
    if harm == "damaged":
        content[35:41] = b"\xff" * 6  # behind the header and the name
    elif harm == "encrypted":
        content[6] |= 1
        content[central + 8] |= 1
    else:
        content[8] = content[central + 10] = 99
    archive.write_bytes(content)
    write_images(tmp_path, encoded, b="red")
    path = write_json(tmp_path / "train.json", [{"prompt": "p", "path1": "x/a.png", "path2": "b.png"}])
    with pytest.raises(DataError) as caught:
        store.read(path)[0]
    assert str(caught.value).startswith(f"{path}: entry 1: image 0: cannot read 'a.png' in {archive} (")
    assert list(open_stream(path).in_file_order()) == [], "broken in a stream, too"


RATED = {"classification": ["People"] * 5, "overall_rating": [5, 6, 3, 4, 4]}


def test_imagerewarddb_metadata_with_zip_files(tmp_path, encoded):
    colours = ["red", "lime", "blue", "white", "black"]
    (tmp_path / "images" / "train").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "images" / "train" / "train_1.zip", "w") as archive:
        for colour in colours:
            archive.writestr(f"{colour}.png", encoded(colour))
    columns = {
        "image_path": [f"images/train/train_1/{colour}.png" for colour in colours],
        "prompt_id": ["1-1", "1-1", "1-1", "2-2", "2-2"],
        "prompt": ["p", "p", "p", "q", "q"],
        "rank": pa.array([2, 1, 2, 1, 1], pa.int8()),
        **RATED,
    }
    pq.write_table(pa.table(columns), tmp_path / "metadata-train.parquet")
    data = store.read(tmp_path, split="train")
    assert [example.preference for example in data] == [(-2.0, -1.0, -2.0), (-1.0, -1.0)]
    assert [header.preference for header in data.headers] == [example.preference for example in data]
    assert [candidate.content() for candidate in data[1].candidates] == [encoded("white"), encoded("black")]
    assert data[0].provenance["overall_rating"] == [5, 6, 3]
    assert data[0].where == f"{tmp_path / 'metadata-train.parquet'}: row 1"
    assert [len(as_pairs(example)) for example in data] == [2, 0], "equal ranks give no pair"


def test_imagerewarddb_rows_groups_and_pairs(tmp_path, encoded):
    red, lime, blue = (encoded(colour) for colour in ("red", "lime", "blue"))
    single = {
        "image": feature(red, lime, blue),
        "prompt_id": ["1", "2", "1"],  # rows of a prompt need not be neighbours
        "prompt": ["p", "q", "p"],
        "rank": pa.array([2, 1, 1], pa.int8()),
    }
    group = {
        "prompt_id": ["1"],
        "prompt": ["p"],
        "image": pa.array([[{"bytes": red, "path": None}, {"bytes": blue, "path": None}]], pa.list_(IMAGE)),
        "rank": pa.array([[2, 1]], pa.list_(pa.int8())),
    }
    pair = {"prompt_id": ["1"], "prompt": ["p"], "img_better": feature(blue), "img_worse": feature(red)}
    for columns in (single, group, pair):
        path = tmp_path / "validation.parquet"
        pq.write_table(pa.table(columns), path)
        data = store.read(path, split="validation")
        assert [[c.content() for c in pair] for pair in as_pairs(data[0])] == [[blue, red]]


def test_open_image_preferences_in_shards(tmp_path, encoded):
    for number, colour in enumerate(["red", "lime"]):
        path = tmp_path / "data" / f"train-{number:05}-of-00002.parquet"
        path.parent.mkdir(exist_ok=True)
        columns = {
            "prompt": [f"{colour} {row}" for row in range(3)],
            "chosen": feature(*[encoded(colour)] * 3),
            "rejected": feature(*[encoded("blue")] * 3),
        }
        pq.write_table(pa.table(columns), path, row_group_size=2)
    pq.write_table(pa.table(columns), tmp_path / "data" / "test-00000-of-00001.parquet")
    data = store.read(tmp_path, split="train")
    assert [example.prompt for example in data] == [f"{c} {row}" for c in ("red", "lime") for row in range(3)]
    assert data[4].candidates[0].content() == encoded("lime")
    assert data[4].preference == (1.0, 0.0) and data[4].split == "train"
    assert data[4].where.endswith("train-00001-of-00002.parquet: row 2")
    assert [header.row for header in data.headers] == [1, 2, 3, 4, 5, 6]
    assert len(store.read(tmp_path)) == 9
    with pytest.raises(DataError) as caught:
        store.read(tmp_path, split="validation")
    assert str(caught.value) == f"{tmp_path}: unknown split 'validation'. Known: test, train."


def test_pickapic_in_shards(tmp_path, pickapic):
    for number in range(2):
        pickapic(2, name=f"train-{number:05}-of-00002.parquet", label_0=[float(number), 0.5])
    data = store.read(tmp_path, split="train")
    assert [example.preference for example in data] == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (0.5, 0.5)]


def test_numbered_shards_of_another_split_are_not_opened(tmp_path, pickapic, monkeypatch):
    for split in ("train", "validation"):
        pickapic(2, name=f"{split}-00000-of-00001.parquet")
    opened, real = [], store._open
    monkeypatch.setattr(store, "_open", lambda file, *rest: opened.append(file.name) or real(file, *rest))
    assert len(store.read(tmp_path, split="validation")) == 2
    assert opened == ["validation-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00012.parquet", "train"),
        ("validation_unique-00000-of-00001.parquet", "validation_unique"),
        # as yuvalkirstain/pickapic_v1 names them
        ("data/train-00000-of-00645-b66ac786bf6fb553.parquet", "train"),
        ("data/validation_unique-00000-of-00001-33ead111845fc9c4.parquet", "validation_unique"),
        ("default/test/0000.parquet", "test"),
        ("metadata-validation.parquet", "validation"),
        ("val.json", "validation"),
        ("test/train_3.tar", "train"),
        ("training/latest.jsonl", "train"),
        ("contest.parquet", None),
    ],
)
def test_the_split_that_a_name_tells(tmp_path, path, split):
    assert store.split_of(tmp_path.relative_to(tmp_path) / path) == split


def test_an_unknown_table_is_refused_with_what_it_holds(tmp_path):
    path = write_json(tmp_path / "train.json", [{"question": "x", "answer": "y"}])
    with pytest.raises(DataError) as caught:
        store.read(path)
    assert str(caught.value) == (
        f"{path}: unknown layout, got question, answer. Say with `data.columns` "
        "(typed: `--column`) what these mean."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON (Expecting value: line 1 column 2 (char 1))."),
        ("[]", "must be a list of objects, got list of 0."),
        ("3", "must be a list of objects, got int."),
    ],
)
def test_a_json_file_that_is_no_list_of_objects(tmp_path, content, message):
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        store.read(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    "written", ["../out.png", "/etc/passwd", "../up/out.png", "images/x/gone.png", "a\0b"]
)
def test_paths_stay_in_the_folder(tmp_path, encoded, written):
    folder = tmp_path / "data"
    write_images(tmp_path, encoded, out="red")
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("out.png", encoded("red"))
    write_images(folder, encoded, a="red")
    (folder / "images").mkdir()
    with zipfile.ZipFile(folder / "images" / "x.zip", "w") as archive:
        archive.writestr("there.png", b"")
    path = write_json(folder / "train.json", [{"prompt": "p", "path1": "a.png", "path2": written}])
    with pytest.raises(DataError, match="path leads out of the folder|no such file|no image|not a path"):
        store.read(path)[0]
