"""A file is whole or as it was before, and whoever may read new files may read it."""

import hashlib
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from penchant.files import give_usual_rights, replacing, sha256, write_text


@pytest.fixture(autouse=True)
def usual():
    """New files may be read by all."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_hash_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 5000  # more than one piece
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_what_was_written_takes_the_place_with_the_usual_rights(tmp_path):
    path = tmp_path / "x.safetensors"
    for number in (1.0, 2.0):
        with replacing(path) as partial:
            save_file({"x": torch.tensor([number])}, partial)
            assert not path.exists() or load_file(path)["x"] == number - 1
    assert load_file(path)["x"] == 2 and rights(path) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_what_goes_wrong_leaves_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "page.html", "new")


def test_files_of_a_folder_get_the_usual_rights(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x").touch(mode=0o600)
    give_usual_rights(tmp_path)
    assert rights(tmp_path / "deep" / "x") == 0o644
