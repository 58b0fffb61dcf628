"""A child process that answers lines with lines, started when first asked and kept."""

import atexit
import contextlib
import queue
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from typing import IO, final

from penchant.errors import RewardError


@cache
def child_of(command: tuple[str, ...]) -> "Child":
    """The child of a command; the same for every reward that names it, stopped at exit."""
    child = Child(command)
    atexit.register(child.stop)
    return child


@final
class Child:
    """One process at a time; what it writes to standard error is kept for messages.

    Args:
        command: Program and arguments; no shell reads them.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._errors: IO[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, line: bytes, *, timeout: float, start_timeout: float) -> bytes:
        """The line that answers a line.

        Args:
            line: The question, without line breaks.
            timeout: Seconds until the answer must be there.
            start_timeout: The same for the first answer of a process, which may load weights first.

        Raises:
            RewardError: The program cannot be started.
            TimeoutError: No answer came in time; the process is stopped.
            ChildProcessError: The process ended; its last words are the message.
        """
        with self._lock:
            fresh = self._process is None
            process = self._start() if self._process is None else self._process
            assert process.stdin is not None
            # in a thread, because a child that does not read would block a long question for ever
            threading.Thread(target=_write, args=(process.stdin, line + b"\n"), daemon=True).start()
            try:
                answer = self._lines.get(timeout=start_timeout if fresh else timeout)
            except queue.Empty:
                self.stop()
                raise TimeoutError from None
            if not answer:
                raise ChildProcessError(self._last_words())
            return answer

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, self._errors):
                with contextlib.suppress(OSError):  # a question that was not read to its end
                    if pipe is not None:
                        pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        self._lines = queue.SimpleQueue()
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise RewardError(
                f"{self._command[0]}: cannot be started ({error.strerror}). Check the command and the folder."
            ) from error
        self._process = process
        threading.Thread(target=_read, args=(process.stdout, self._lines), daemon=True).start()
        return process

    def _last_words(self) -> str:
        """How the process ended, and the last line of what it wrote to standard error."""
        process, errors = self._process, self._errors
        assert process is not None and errors is not None
        process.kill()
        code = process.wait()
        errors.seek(0)
        lines = errors.read().decode("utf-8", errors="replace").strip().splitlines()
        self.stop()
        return f"exit code {code}" + (f": {lines[-1][:200]}" if lines else "")


def _write(pipe: IO[bytes], line: bytes) -> None:
    """Write a line; that a child has ended is told by the end of its answers."""
    with contextlib.suppress(OSError, ValueError):
        pipe.write(line)
        pipe.flush()


def _read(pipe: IO[bytes], lines: "queue.SimpleQueue[bytes]") -> None:
    """Put every line into the queue, and an empty one at the end."""
    with contextlib.suppress(OSError, ValueError):  # closed while it was read
        for line in pipe:
            lines.put(line)
    lines.put(b"")
