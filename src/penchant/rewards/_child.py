"""A child process that answers lines with lines, started when first asked and kept."""

import atexit
import contextlib
import json
import os
import queue
import signal
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
    """One process at a time, ended with all that it has started; its standard error is kept for messages.

    Args:
        command: Program and arguments; no shell reads them.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
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
            RewardError: The program cannot be started, or has written more lines than it was asked for.
            TimeoutError: No answer came in time; the process is stopped.
            ChildProcessError: The process ended; its last words are the message.
        """
        with self._lock:
            fresh = self._process is None
            if fresh:
                self._start()
            else:
                self._require_no_answer_left()
            self._questions.put(line + b"\n")
            try:
                answer = self._lines.get(timeout=start_timeout if fresh else timeout)
            except queue.Empty:
                self.stop()
                raise TimeoutError from None
            if not answer:
                raise ChildProcessError(self._last_words())
            return answer

    def stop(self) -> None:
        """End the process and those that it has started, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            self._questions.put(b"")
            _kill(process)
            process.wait()
            assert self._errors is not None
            self._errors.close()

    def _require_no_answer_left(self) -> None:
        """Raise if a line has come since the last answer: the next question would take it for its own."""
        try:
            line = self._lines.get_nowait()
        except queue.Empty:
            return
        if not line:
            raise ChildProcessError(self._last_words())
        self.stop()
        raise RewardError(
            f"{self._command[0]}: must write one line for each question, got another one after its answer: "
            f"{line[:80].decode(errors='replace').strip()!r}. Let it log to standard error."
        )

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        self._questions, self._lines = queue.SimpleQueue(), queue.SimpleQueue()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # a group of its own, so that a wrapper's program ends with it
            )
        except OSError as error:
            self._errors.close()
            raise RewardError(
                f"{self._command[0]}: cannot be started ({error.strerror}). Check the command and the folder."
            ) from error
        # in threads, because a child that neither reads nor writes would block us for ever
        threading.Thread(target=_write, args=(self._process.stdin, self._questions), daemon=True).start()
        threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True).start()

    def _last_words(self) -> str:
        """How the process ended, and the last line of what it wrote to standard error."""
        process, errors = self._process, self._errors
        assert process is not None and errors is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may end its answers without ending itself
            process.wait(timeout=1)
        _kill(process)
        code = process.wait()
        errors.seek(0)
        lines = errors.read().decode("utf-8", errors="replace").strip().splitlines()
        self.stop()
        return f"exit code {code}" + (f": {lines[-1][:200]}" if lines else "")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and those that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _write(pipe: IO[bytes], questions: "queue.SimpleQueue[bytes]") -> None:
    """Write the lines of a queue up to an empty one; that a child has ended is told by its answers' end."""
    with contextlib.suppress(OSError), pipe:
        while line := questions.get():
            pipe.write(line)
            pipe.flush()


def _read(pipe: IO[bytes], lines: "queue.SimpleQueue[bytes]") -> None:
    """Put every whole line into the queue, and an empty one at the end."""
    with contextlib.suppress(OSError), pipe:
        for line in pipe:
            if line.endswith(b"\n") or _is_json(line):  # else the child has ended in the middle of it
                lines.put(line)
    lines.put(b"")
