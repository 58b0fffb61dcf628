"""Whole runs over streamed data: resumed in mid-stream to the bit, and stopped by what is broken."""

import logging
import threading

import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from tests import small

from penchant.data import hub
from penchant.errors import ConfigError, TrainingStopped
from penchant.runs import assemble as module
from penchant.runs import evaluate as evaluation
from penchant.runs.explain import explain
from penchant.runs.load import check
from penchant.training.stream import StreamSource


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def streamed(options, shards):
    def build(**changes):
        stream = {"data.path": str(shards), "data.streaming": True, "data.shuffle_buffer": 8}
        return options(**stream | {"training.heldout_examples": 4} | changes)

    return build


def reading_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_a_killed_run_goes_on_with_the_same_next_example(streamed, monkeypatch, tmp_path, caplog):
    raw = streamed(**{"training.steps": 8, "training.checkpoint_every": 3, "data.max_broken": 0.5})
    with caplog.at_level(logging.WARNING):
        whole, _ = small.train(raw)
    assert not reading_threads()
    assert any("others took their places" in message for message in caplog.messages)
    assert sum(row.get("data/broken", 0) for row in small.metrics(whole.path)) in (1, 2), "once an epoch"
    real = StreamSource.__call__

    def killed_at_7(source, step):
        if step == 7:
            raise KeyboardInterrupt
        return real(source, step)

    monkeypatch.setattr(StreamSource, "__call__", killed_at_7)
    with pytest.raises(KeyboardInterrupt):
        small.train(raw, output=tmp_path / "killed")
    assert not reading_threads()
    monkeypatch.undo()
    folder, shown = small.train(raw, resume=True, output=tmp_path / "killed")
    assert "going on from step 6 of 8" in shown
    assert small.metrics(folder.path) == small.metrics(whole.path)
    small.assert_same_adapter(folder.path, whole.path)


def test_too_many_broken_rows_stop_the_run(streamed):
    with pytest.raises(TrainingStopped) as caught:
        small.train(streamed(**{"training.steps": 6, "data.max_broken": 0.0}))
    assert str(caught.value).startswith("data.max_broken: 1 of ")
    assert "train-00001-of-00003.parquet: row 4: column 'jpg_0': no image, got 0 bytes." in str(caught.value)


def test_held_out_groups_are_bounded_and_rows_are_counted(streamed):
    parts = small.assembled(streamed())
    assert parts.sources.num_groups == len(parts.data) == 24
    assert len(parts.sources.heldout.examples.ids) == 4
    assert explain(check(streamed(), where="run.yaml"), where="run.yaml").groups == 24


def test_a_method_that_samples_does_not_stream(streamed):
    run = check(
        streamed(
            method="d3po", online={"reward": "compressibility"}, objective={}, **{"training": {"steps": 2}}
        ),
        where="run.yaml",
    )
    with pytest.raises(
        ConfigError, match="run.yaml: data.streaming: a method that samples the model reads no stored"
    ):
        module.method_of(run, where="run.yaml")


def test_a_data_set_of_the_hub_is_evaluated_without_a_download(streamed, shards, tmp_path, monkeypatch):
    """The file system of the hub is stood in for by a folder; both are file systems of fsspec."""
    (tmp_path / "datasets" / "owner").mkdir(parents=True)
    (tmp_path / "datasets" / "owner" / "pairs").symlink_to(shards)
    monkeypatch.setattr(hub, "HfFileSystem", lambda: DirFileSystem(str(tmp_path), LocalFileSystem()))
    monkeypatch.delattr(hub, "snapshot_download")
    prompts = {"evaluation.split": "validation", "evaluation.num_prompts": 8}
    here = check(streamed(**prompts), where="run.yaml")
    away = check(streamed(**prompts, **{"data.path": "owner/pairs"}), where="run.yaml")
    wanted = [f"thing {number}" for number in range(24, 32)]
    for run in (here, away):
        assert list(evaluation.suite_of(run, where="run.yaml").prompts) == wanted
    rows = [evaluation.examples_of(run, run.data.train_split, where="run.yaml") for run in (here, away)]
    assert [evaluation.trained_on(here, some, where="run.yaml") for some in rows] == [set(), set()]
    winners = [evaluation._preferred_images(here, some, 16) for some in rows]
    assert len(winners[0]) in (23, 24), "one row of 24 has a broken image"
    assert torch.equal(*winners)
