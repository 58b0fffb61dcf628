"""Reading a run folder: what is there, what is missing, what is broken."""

import json

import pytest

from penchant.errors import DataError, RunFolderError
from penchant.reports.contents import read_metrics, read_pairs, read_run_folder


def test_a_complete_folder_lacks_nothing(run_folder):
    contents = read_run_folder(run_folder)
    assert contents.missing == ()
    assert contents.warnings == ()
    assert contents.name == "first-run"
    assert contents.run["method"] == "diffusion-dpo"
    assert contents.metrics.last_step == 240
    assert len(contents.pairs) == 30


def test_an_empty_folder_names_every_part_and_its_command(tmp_path):
    contents = read_run_folder(tmp_path)
    assert [part.part.split(",")[0] for part in contents.missing] == [
        "run.yaml",
        "manifest.json",
        "metrics.jsonl",
        "results.json",
        "samples",
    ]
    train, evaluate = "penchant train RUN.yaml", f"penchant evaluate {tmp_path}"
    assert [part.command for part in contents.missing] == [train, train, train, evaluate, evaluate]


def test_no_folder(tmp_path):
    with pytest.raises(RunFolderError, match="absent: no such run folder"):
        read_run_folder(tmp_path / "absent")


@pytest.mark.parametrize(
    "text", ["method: [unclosed", "7", "a: ${b", "a: !!int x", "a: !!bool x", "a: !!timestamp x", "- a"]
)
def test_what_is_no_run_file_is_shown_as_it_stands(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    contents = read_run_folder(tmp_path)
    assert (contents.run, contents.run_text) == ({}, text)


def test_metrics_after_a_crash_and_a_resume():
    lines = [
        '{"step": 1, "split": "train", "loss": 0.7}',
        '{"step": 2, "split": "train", "loss": 0.6}',
        '{"step": 2, "split": "heldout", "loss": 0.65}',
        '{"step": 2, "split": "train", "loss": 0.61, "note": "text", "flag": true}',
        '{"step": 3, "split": "train", "loss": NaN}',
        "",
        "[1, 2]",
        '{"step": 3, "split": "elsewhere", "loss": 1}',
        '{"step": 4, "spl',
    ]
    metrics = read_metrics("\n".join(lines))
    assert metrics.train == {"loss": ((1, 0.7), (2, 0.61))}
    assert metrics.heldout == {"loss": ((2, 0.65),)}
    assert metrics.warnings == (
        "metrics.jsonl: 3 lines could not be read and are left out.",
        "loss is not a finite number at step 3.",
    )
    assert read_metrics("").last_step is None


def test_pairs_without_files_are_counted_and_paths_stay_inside(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    row = {"prompt": "p", "seed": 3, "base": "a.png", "tuned": "a.png"}
    gone = {**row, "tuned": "b.png"}
    pairs, warnings = read_pairs(f"{json.dumps(row)}\n\n{json.dumps(gone)}\n", tmp_path)
    assert [(pair.prompt, pair.seed) for pair in pairs] == [("p", 3)]
    assert warnings == ("1 image pairs of the index have no files and are left out.",)
    with pytest.raises(DataError, match="line 1: image outside the samples folder"):
        read_pairs(json.dumps({**row, "base": "../secret.png"}), tmp_path)
    with pytest.raises(DataError, match="line 1: needs prompt, seed, base and tuned"):
        read_pairs('{"prompt": "p"}', tmp_path)


def test_broken_parts_are_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest.json: not valid JSON"):
        read_run_folder(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="manifest.json: cannot be read"):
        read_run_folder(tmp_path)


def test_manifest_warnings_and_odd_files_are_shown_not_lost(tmp_path):
    (tmp_path / "manifest.json").write_text('{"warnings": ["winner error rose"]}')
    (tmp_path / "run.yaml").write_text("method: [unclosed")
    contents = read_run_folder(tmp_path)
    assert contents.warnings == ("winner error rose",)
    assert (contents.run, contents.run_text) == ({}, "method: [unclosed")
    (tmp_path / "manifest.json").write_text("[1]")
    assert read_run_folder(tmp_path).manifest == {"manifest": [1]}
