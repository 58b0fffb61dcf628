"""A run that goes on from a checkpoint is the run that never stopped, and a broken disk loses nothing "
"older."""

import errno
import json
import logging
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tests import small

from penchant.errors import RunFolderError
from penchant.training import checkpoint
from penchant.training.checkpoint import Checkpointer, TrainState, latest, load, save
from penchant.training.loop import Progress, Record
from penchant.training.optim import build_optimizer, build_schedule

TERMS = [{"kind": "winner-kept", "coefficient": 10}]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "adamw-4bit", "adafactor"])
def test_three_steps_and_three_more_are_six_to_the_bit(options, tmp_path, optimizer):
    few_bits = optimizer in ("adamw-8bit", "adamw-4bit")
    large = {"training.lora.rank": 256, "training.lora.targets": ["to_q"]}
    changes = large if few_bits else {}  # large enough for blocks, in few shapes: each is compiled
    changes |= {"terms": TERMS, "training.optimizer": optimizer, "data.flip": True}
    changes |= {"training.schedule": "constant", "training.warmup_steps": 2, "training.heldout_every": 3}
    once, _ = small.train(options(**changes, **{"training.steps": 5}), output=tmp_path / "once")
    twice = tmp_path / "twice"
    small.train(options(**changes, **{"training.steps": 3}), output=twice)
    small.train(options(**changes, **{"training.steps": 5}), output=twice, resume=True)
    assert small.metrics(twice) == small.metrics(once.path)
    for name in ("weights", "optimizer", "average"):
        a, b = (
            load_file(f / "checkpoints/step-00000005" / f"{name}.safetensors") for f in (once.path, twice)
        )
        assert a.keys() == b.keys() and len(a) > 0
        assert all(torch.equal(a[key], b[key]) for key in a), name
        if name == "optimizer":
            assert any(tensor.dtype == torch.uint8 for tensor in a.values()) == few_bits
    small.assert_same_adapter(twice, once.path)


def state_of(width=3, rate=0.1):
    torch.manual_seed(0)
    network = torch.nn.Linear(2, width)
    optimizer = build_optimizer(
        network.parameters(),
        name="adamw",
        learning_rate=rate,
        betas=(0.9, 0.99),
        weight_decay=0,
        epsilon=1e-8,
    )
    schedule = build_schedule(optimizer, name="linear", warmup_steps=2, steps=10)
    return TrainState(network=network, optimizer=optimizer, schedule=schedule, progress=Progress())


def move(state, steps=1):
    for _ in range(steps):
        state.network(torch.ones(1, 2)).sum().backward()
        state.optimizer.step()
        state.schedule.step()
        state.optimizer.zero_grad()
        state.progress.step += 1


def test_everything_comes_back(tmp_path):
    state = state_of()
    move(state, 3)
    place = save(state, tmp_path)
    assert len({path.stat().st_mode for path in place.iterdir()}) == 1  # safetensors are for the owner alone
    move(state, 2)
    other = state_of()
    load(other, place)
    assert other.progress.step == 3
    assert other.schedule.get_last_lr() == [pytest.approx(0.1 * (1 - 1 / 8))]
    move(other, 2)
    assert torch.equal(other.network.weight, state.network.weight)
    assert other.schedule.get_last_lr() == state.schedule.get_last_lr()


@pytest.fixture
def full_disk(monkeypatch):
    """From now on, the n-th file of a checkpoint no longer fits."""

    def fill(error, name):
        real = checkpoint.save_file

        def fail(tensors, path):
            if path.stem == name:
                path.write_bytes(b"half")
                raise error
            real(tensors, path)

        monkeypatch.setattr(checkpoint, "save_file", fail)

    return fill


FULL = (
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
)


@pytest.mark.parametrize("error", FULL, ids=["python", "safetensors", "quota"])
@pytest.mark.parametrize("name", ["weights", "optimizer"])
def test_a_full_disk_loses_nothing_older(tmp_path, full_disk, error, name):
    state = state_of()
    move(state)
    first = save(state, tmp_path)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    move(state)
    full_disk(error, name)
    with pytest.raises(
        RunFolderError, match=r"step-00000002: the checkpoint cannot be written \(.*(No space|quota)"
    ):
        save(state, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert latest(tmp_path) == first


def test_an_error_that_is_not_the_disk_keeps_its_name(tmp_path, full_disk):
    state = state_of()
    move(state)
    full_disk(RuntimeError("something else: No space left"), "weights")
    with pytest.raises(RuntimeError, match="something else"):
        save(state, tmp_path)
    assert not list(tmp_path.iterdir())


def damage(place, how):
    weights = place / "weights.safetensors"
    match how:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-5])
        case "gone":
            weights.unlink()
        case "bit":
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        case "no state":
            (place / "state.json").unlink()
        case "half a state":
            (place / "state.json").write_text('{"step": 2, "fi')


@pytest.mark.parametrize("how", ["cut", "gone", "bit", "no state", "half a state"])
def test_a_damaged_checkpoint_is_passed_over_and_said_so(tmp_path, caplog, how):
    state = state_of()
    move(state)
    first = save(state, tmp_path)
    move(state)
    damage(save(state, tmp_path), how)
    with caplog.at_level(logging.WARNING, "penchant"):
        assert latest(tmp_path) == first
    assert "step-00000002: " in caplog.text
    assert "the one before it is taken" in caplog.text


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert latest(tmp_path / "none") is None
    (tmp_path / ".partial-step-00000004").mkdir()
    assert latest(tmp_path) is None


def test_the_newest_are_kept_and_leftovers_go(tmp_path):
    """A damaged later checkpoint must not push out the good ones."""
    state = state_of()
    checkpointer = Checkpointer(state, tmp_path, every=2, keep=2)
    damaged = tmp_path / "step-00000008"
    for leftover in (damaged, tmp_path / ".partial-step-00000003"):
        leftover.mkdir()
    for _ in range(7):
        move(state)
        checkpointer.when_due(Record(step=state.progress.step))
    checkpointer.at_end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000007"]
    assert latest(tmp_path).name == "step-00000007"
    shutil.rmtree(tmp_path / "step-00000007")
    checkpointer.at_end()
    assert not (tmp_path / "step-00000007").exists(), "the end writes only what is not written yet"


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    state = state_of()
    move(state)
    checkpointer = Checkpointer(state, tmp_path, every=1, keep=1, main=False)
    checkpointer.when_due(Record(step=state.progress.step))
    checkpointer.at_end()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    state = state_of()
    move(state)
    place = save(state, tmp_path)
    other = state_of()
    other.network = torch.nn.Sequential(other.network)
    with pytest.raises(RunFolderError, match="holds other weights than the run trains, for example"):
        load(other, place)
    with pytest.raises(RunFolderError, match="for example bias. The model, the adapter's rank or targets"):
        load(state_of(width=4), place)


def test_the_state_is_plain_json(tmp_path):
    state = state_of()
    move(state)
    stored = json.loads((save(state, tmp_path) / "state.json").read_text())
    assert (stored["step"], sorted(stored["files"])) == (1, ["optimizer.safetensors", "weights.safetensors"])
