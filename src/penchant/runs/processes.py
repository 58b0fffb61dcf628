"""How the processes of a run begin alike and end: by a signal, with the others, or by an error of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator

from penchant.errors import Interrupted, PenchantError, RunFolderError, TrainingStopped
from penchant.runs.folder import RunFolder
from penchant.training.checkpoint import latest
from penchant.training.loop import Progress
from penchant.training.presence import Presence


def require_one_start(accelerator: Accelerator, step: int, data_hash: str, folder: RunFolder) -> None:
    """Refuse machines that do not share the run folder or the data: each would train a run of its own.

    Args:
        accelerator: Processes and devices.
        step: Step that this process would go on from.
        data_hash: Content hash of the data that this process reads.
        folder: The run folder.

    Raises:
        RunFolderError: The processes differ in one of the two.
    """
    here = torch.tensor([[step, int(data_hash[:12], 16)]], device=accelerator.device)
    starts = accelerator.gather(here)
    assert isinstance(starts, torch.Tensor)
    steps, data = starts.unbind(1)
    if steps.unique().numel() > 1:
        raise RunFolderError(
            f"{folder.path}: the processes would go on from different steps, {steps.tolist()}. Put the run "
            "folder on a file system that all machines share."
        )
    if data.unique().numel() > 1:
        raise RunFolderError(
            f"{folder.path}: the processes read different data. Give every machine the same file under "
            "data.path."
        )


@contextmanager
def one_voice(
    accelerator: Accelerator, folder: RunFolder, progress: Progress, *, resume: bool
) -> Iterator[None]:
    """Inside, of several processes one says an error that all have, and the end of one has a name.

    Args:
        accelerator: Processes and devices.
        folder: The run folder; a message says which of its checkpoints to go on from.
        progress: Steps done, as training counts them.
        resume: The run goes on from an earlier one.

    Raises:
        TrainingStopped: Another process has ended.
        Interrupted: The launcher has sent SIGTERM.
        SystemExit: Another process says the error that this one has.
    """
    if accelerator.num_processes == 1:
        yield
        return

    def loss_of(ranks: list[int]) -> TrainingStopped:
        """The error that names the processes that have ended, and how to go on."""
        return TrainingStopped(
            f"step {progress.step + 1}: rank {' and '.join(map(str, ranks))} of {accelerator.num_processes} "
            "processes has ended: killed, out of memory, or by an error of its own. "
            + _way_out(folder, begun=resume or progress.step > 0)
        )

    def end_of() -> PenchantError:
        """Why this process was told to end between steps."""
        if ranks := presence.lost():
            return loss_of(ranks)
        way_out = _way_out(folder, begun=resume or progress.step > 0)
        return Interrupted(
            f"stopped by SIGTERM after step {progress.step}. {way_out}", signal_number=signal.SIGTERM
        )

    with Presence.of_launch(accelerator.process_index, accelerator.num_processes) as presence:
        try:
            try:
                with _ended_by_launcher(end_of):
                    yield
            except RuntimeError as error:
                with stop_on_signals():  # launchers send one, and the sentence takes a moment
                    ranks = presence.lost()
                    if not ranks:
                        raise
                    raise loss_of(ranks) from error
        except PenchantError as error:
            if presence.says(str(error)):
                raise
            raise SystemExit(error.exit_code) from error


@contextmanager
def stop_on_signals() -> Iterator[list[signal.Signals]]:
    """Inside, Ctrl-C and SIGTERM are noted in the list instead of breaking off; a second one breaks off."""
    received: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def anywhere(asked: bool, accelerator: Accelerator) -> bool:
    """True on every process once one of them was asked to stop, so that all stop after the same step."""
    if accelerator.num_processes == 1:
        return asked
    flags = accelerator.gather(torch.tensor([int(asked)], device=accelerator.device))
    assert isinstance(flags, torch.Tensor)
    return bool(flags.any())


@contextmanager
def _ended_by_launcher(reason: Callable[[], PenchantError]) -> Iterator[None]:
    """Inside, SIGTERM raises the reason; it is what launchers send when another process has failed.

    While steps are taken `stop_on_signals` stands in its place, so that a run ends with a whole step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # finding the reason takes a moment
        raise reason()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _way_out(folder: RunFolder, *, begun: bool) -> str:
    """How to go on; checkpoints of a run that has not begun are of an earlier one in the same folder."""
    place = latest(folder.checkpoints) if begun else None
    if place is None:
        return "No checkpoint is written yet; start again with --overwrite."
    return f"The checkpoint {place.name} is whole; go on with --resume."
