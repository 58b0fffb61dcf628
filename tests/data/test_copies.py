import builtins

import datasets
import pytest

from penchant.data import store
from penchant.data.columns import Columns
from penchant.data.stream import open_stream
from penchant.errors import DataError

COLUMNS = Columns(prompt="text", images=("a", "b"), winner="won")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoded):
    kinds = datasets.Features(
        {
            "text": datasets.Value("string"),
            "a": datasets.Image(),
            "b": datasets.Image(),
            "won": datasets.Value("int8"),
        }
    )
    red, blue = ({"bytes": encoded(colour), "path": None} for colour in ("red", "blue"))
    rows = {"text": ["p", "q", "r"], "a": [red] * 3, "b": [blue] * 3, "won": [0, 1, None]}
    data = datasets.Dataset.from_dict(rows, features=kinds)
    path = tmp_path_factory.mktemp("copy") / "saved"
    datasets.DatasetDict({"train": data, "test_small": data.select([2, 0])}).save_to_disk(path)
    return path


def test_a_copy_with_splits(folder, encoded):
    data = store.read(folder, split="train", columns=COLUMNS)
    assert [(example.prompt, example.preference) for example in data] == [
        ("p", (1.0, 0.0)), ("q", (0.0, 1.0)), ("r", None)
    ]  # fmt: skip
    assert data[1].candidates[1].content() == encoded("blue")
    assert data[1].where == f"{folder / 'train'}: row 2"
    assert [example.prompt for example in store.read(folder, split="test_small", columns=COLUMNS)] == [
        "r",
        "p",
    ]
    assert len(open_stream(folder, split="train", columns=COLUMNS)) == 3


def test_a_copy_of_one_split_and_its_errors(folder, monkeypatch, tmp_path):
    assert len(store.read(folder / "train", columns=COLUMNS)) == 3
    with pytest.raises(DataError, match="unknown layout, got text, a, b, won"):
        store.read(folder / "train")
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        store.read(tmp_path, columns=COLUMNS)
    real = builtins.__import__

    def without(name, *words, **more):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *words, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"which is not installed. Install penchant\[datasets\]."):
        store.read(folder, columns=COLUMNS)
