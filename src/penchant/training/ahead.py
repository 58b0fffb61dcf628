"""What the next steps will ask for, computed beside the current one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar, final

AHEAD: Final = 2
"""Steps in advance: while one is used, the next may be ready and the one after it under way."""

Value = TypeVar("Value")


@final
class Ahead(Generic[Value]):
    """A function of the step whose next values are computed in a thread.

    Any step may be asked for at any time, as of the function itself; what lies too far from it is dropped. An
    error comes out where its step is asked for. The thread starts with the first step, computes one value
    after the other and ends with `close()`, or when nobody holds this any more.

    Args:
        function: Called in the thread, never twice at once.
        ahead: Values that are kept beside the one that is asked for; >= 0.
    """

    def __init__(self, function: Callable[[int], Value], *, ahead: int = AHEAD) -> None:
        self._function, self._ahead = function, ahead
        self._thread: ThreadPoolExecutor | None = None
        self._values: dict[int, Future[Value]] = {}

    def __call__(self, step: int) -> Value:
        """The value of a step; waits for it if need be."""
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        wanted = range(step, step + self._ahead + 1)
        for other in self._values.keys() - set(wanted):
            self._values.pop(other).cancel()
        for number in wanted:
            if number not in self._values:
                self._values[number] = self._thread.submit(self._function, number)
        return self._values.pop(step).result()

    def close(self) -> None:
        """End the thread; waits for the value that it is computing. Another step would start it again."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread, self._values = None, {}
