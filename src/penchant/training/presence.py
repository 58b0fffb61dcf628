"""Which of several processes still live, and which of them speaks."""

import hashlib
import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Final, Self, final

from torch.distributed import PrefixStore, TCPStore

BEAT_S: Final = 0.5
"""Seconds between two signs of life."""
PATIENCE_S: Final = 8.0
"""A process that gives no sign of life for so long, while another one has failed, has ended."""
COURTESY_S: Final = 2.0
"""Seconds that the process with the store waits at its end for the others, which may still want to ask."""


@final
class Presence:
    """Inside `with`, this process says every moment that it lives, and can ask who else does.

    A thread does it, so that a process that waits for another one is not taken for one that has ended.

    Args:
        process: Number of this process.
        num_processes: How many there are.
        store: What they share.
    """

    def __init__(self, process: int, num_processes: int, store: PrefixStore) -> None:
        self.process, self.num_processes, self.store = process, num_processes, store
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @classmethod
    def of_launch(cls, process: int, num_processes: int) -> Self:
        """In the store that the launcher's processes met in."""
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=30),
        )
        return cls(process, num_processes, PrefixStore("penchant", store))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        with suppress(RuntimeError):  # the store has ended
            left = self.store.add("left", 1)
            runs = -(-left // self.num_processes)  # of this launch, which share the store
            everyone = runs * self.num_processes
            deadline = time.monotonic() + COURTESY_S
            while self.process == 0 and self.store.add("left", 0) < everyone and time.monotonic() < deadline:
                time.sleep(0.01)

    def lost(self) -> list[int]:
        """Numbers of the processes that have ended; none if all live. Asked once something has failed here.

        The first who finds out leaves word, because it will soon have ended too.
        """
        try:
            if not self.store.check(["lost"]):
                before = self._beats()
                time.sleep(PATIENCE_S)
                now = self._beats()
                ended = [str(number) for number, beat in now.items() if beat == before.get(number)]
                if ended:
                    self.store.compare_set("lost", "", " ".join(ended))
            if not self.store.check(["lost"]):
                return []
            return [int(number) for number in self.store.get("lost").split()]
        except RuntimeError:  # the store itself has ended, and with it the process that kept it
            return [0]

    def says(self, message: str) -> bool:
        """True for the first process that asks whether to say this."""
        try:
            return self.store.add(hashlib.sha256(message.encode()).hexdigest(), 1) == 1
        except RuntimeError:  # nobody can agree any more
            return True

    def _beat(self) -> None:
        while True:
            try:
                self.store.set(str(self.process), str(time.monotonic_ns()))
            except RuntimeError:
                return
            if self._end.wait(BEAT_S):
                return

    def _beats(self) -> dict[int, bytes]:
        """The last sign of life of every other process that has given one."""
        others = [number for number in range(self.num_processes) if number != self.process]
        return {number: self.store.get(str(number)) for number in others if self.store.check([str(number)])}
