"""Who still lives, and who speaks: in a store that threads of one process share."""

import threading
import time

import pytest
from torch.distributed import HashStore, PrefixStore, TCPStore

from penchant.training import presence as module
from penchant.training.presence import Presence


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)


@pytest.fixture
def store():
    return PrefixStore("test", HashStore())


def test_a_process_that_has_ended_is_told_from_one_that_waits(store):
    with Presence(0, 3, store) as first, Presence(1, 3, store) as second:
        with Presence(2, 3, store):
            assert first.lost() == []
        assert first.lost() == [2]
    with Presence(1, 3, store) as second:
        assert second.lost() == [2], "the first has left word, and is not taken for lost when it has gone too"


def test_the_process_that_keeps_the_store_is_the_last_to_leave(store):
    """Else another one could no longer ask whether to speak. A second run starts from the first's count."""
    for _ in range(2):
        others = [Presence(number, 3, store) for number in (1, 2)]
        first, left = Presence(0, 3, store).__enter__(), []
        waits = threading.Thread(target=lambda first=first, left=left: (first.__exit__(), left.append(0)))
        for other in others:
            other.__enter__()
        waits.start()
        for other in others:
            waits.join(0.05)
            assert left == []
            other.__exit__()
        waits.join(1)
        assert left == [0]


def test_the_process_that_keeps_the_store_does_not_wait_for_long(store, monkeypatch):
    monkeypatch.setattr(module, "COURTESY_S", 0.05)
    started = time.monotonic()
    with Presence(0, 2, store):
        pass
    assert 0.05 <= time.monotonic() - started < 1


def test_one_says_what_all_would_say(store):
    speakers = [Presence(number, 3, store).says("an error") for number in (2, 0, 1)]
    assert speakers == [True, False, False]
    assert Presence(1, 3, store).says("another error")


def test_a_store_that_has_gone_went_with_the_first_process(monkeypatch):
    kept = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(kept.port))
    second = Presence.of_launch(1, 2)
    del kept
    with second:
        assert second.lost() == [0]
        assert second.says("an error")
