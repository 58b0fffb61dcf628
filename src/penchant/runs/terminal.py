"""What a run shows in the terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Phase = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows a phase of the set-up: its name and size give a function that is told how much is done."""


@contextmanager
def phase(console: Console, name: str, size: int) -> Iterator[Callable[[int], None]]:
    """A progress line with the time left; gives a function that is told how much is done.

    Args:
        console: Where it is shown.
        name: What is being done.
        size: How much there is to do.
    """
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=size)
        yield lambda done: bar.update(task, completed=done)
