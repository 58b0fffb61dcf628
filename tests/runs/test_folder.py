"""A run folder is never lost by accident, and what goes wrong on disk is said in a sentence."""

import errno
import json
import os
import stat

import pytest

from penchant.errors import RunFolderError
from penchant.runs.folder import RunFolder, write_json_atomically, write_text_atomically, writing


def message(call, *args, **options):
    with pytest.raises(RunFolderError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder.create(tmp_path / "runs" / "mine")
    assert folder.path.is_dir()
    assert list(folder.path.iterdir()) == []


def test_an_empty_folder_may_be_used(tmp_path):
    assert RunFolder.create(tmp_path).path == tmp_path


def test_every_part_lies_in_the_folder(tmp_path):
    folder = RunFolder(tmp_path)
    names = [part.name for part in folder._parts()]
    assert sorted(names) == [
        *("adapter", "checkpoints", "drawn", "manifest.json", "metrics.jsonl", "pipeline"),
        *("report.html", "results.json", "run.yaml", "samples", "scores.sqlite", "tensorboard"),
    ]
    assert {part.parent for part in folder._parts()} == {tmp_path}


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("a: 1")
    assert message(RunFolder.create, tmp_path) == (
        f"{tmp_path}: exists and is not empty. Continue the run with --resume, replace it with --overwrite, "
        "or set another output."
    )


def test_a_file_is_no_run_folder(tmp_path):
    path = tmp_path / "file"
    path.touch()
    assert message(RunFolder.create, path) == f"{path}: is a file, not a folder. Set another output."


def test_overwrite_removes_the_parts_of_a_run_and_nothing_else(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.txt").touch()
    run = tmp_path / "run"
    run.mkdir()
    folder = RunFolder(run)
    for part in (folder.manifest, folder.run_file, folder.metrics, run / "notes.txt"):
        part.write_text('{"penchant": "0.1.0"}')
    (folder.checkpoints / "step-1").mkdir(parents=True)
    folder.samples.symlink_to(elsewhere)
    RunFolder.create(run, overwrite=True)
    assert [entry.name for entry in run.iterdir()] == ["notes.txt"]
    assert (elsewhere / "kept.txt").exists()


def test_overwrite_takes_a_run_that_stopped_before_its_manifest(tmp_path):
    (tmp_path / "run.yaml").touch()
    RunFolder.create(tmp_path, overwrite=True)
    assert not (tmp_path / "run.yaml").exists()


def test_overwrite_refuses_what_does_not_look_like_a_run_folder(tmp_path):
    (tmp_path / "photo.png").touch()
    assert message(RunFolder.create, tmp_path, overwrite=True) == (
        f"{tmp_path}: does not look like a run folder (it holds 'photo.png'), so nothing is removed. "
        "Set another output, or empty the folder yourself."
    )


def test_a_project_that_holds_a_run_file_is_no_run_folder(tmp_path):
    for name in ("run.yaml", "thesis.tex"):
        (tmp_path / name).touch()
    assert "it holds 'thesis.tex'" in message(RunFolder.create, tmp_path, overwrite=True)
    assert (tmp_path / "run.yaml").exists()


def test_overwrite_refuses_a_folder_of_results_without_a_run(tmp_path):
    (tmp_path / "samples").mkdir()
    assert "(no run.yaml, no manifest.json), so nothing is removed." in message(
        RunFolder.create, tmp_path, overwrite=True
    )


def test_open_existing_wants_a_run(tmp_path):
    missing = tmp_path / "no"
    assert message(RunFolder.open_existing, missing) == (
        f"{missing}: no such run folder. Give the folder that `penchant train` has written."
    )
    assert message(RunFolder.open_existing, tmp_path) == (
        f"{tmp_path}: holds no run.yaml. Give the folder that `penchant train` has written."
    )
    (tmp_path / "run.yaml").touch()
    assert RunFolder.open_existing(tmp_path) == RunFolder(tmp_path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, "no space left on the disk. Free some, then continue with --resume."),
        (errno.EACCES, "cannot be written, permission denied. Set another output or change the rights."),
        (errno.EROFS, "cannot be written, permission denied. Set another output or change the rights."),
        (errno.EIO, "cannot be written, Input/output error. Set another output."),
    ],
)
def test_what_the_disk_refuses_is_a_sentence(tmp_path, code, expected):
    def fail():
        with writing(tmp_path):
            raise OSError(code, os.strerror(code))

    assert message(fail) == f"{tmp_path}: {expected}"


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert "permission denied" in message(RunFolder.create, tmp_path / "new")


def test_a_full_disk_keeps_the_old_file_and_leaves_no_piece(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text("old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    expected = f"{path}: no space left on the disk. Free some, then continue with --resume."
    assert message(write_text_atomically, path, "new") == expected
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]


def test_a_text_is_written_whole_with_the_rights_of_any_new_file(tmp_path):
    write_text_atomically(tmp_path / "a.txt", "käfer\n")
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").read_bytes() == "käfer\n".encode()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]


def test_json_is_written_so_that_every_reader_takes_it(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomically(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomically(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_a_manifest_of_another_program_is_no_sign_of_a_run(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "precious.txt").touch()
    assert "so nothing is removed" in message(RunFolder.create, tmp_path, overwrite=True)
    assert (tmp_path / "samples" / "precious.txt").exists()


def test_claiming_a_folder_leaves_the_earlier_run_in_place(tmp_path):
    RunFolder(tmp_path).run_file.write_text("model: emoji")
    folder = RunFolder.claim(tmp_path, overwrite=True)
    assert folder.run_file.read_text() == "model: emoji"
