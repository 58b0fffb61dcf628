"""Every error the library raises on purpose; the command line prints one line of it and exits.

PenchantError
  ConfigError        a run file or option is wrong              (exit 2)
  CompositionError   slots of a method do not fit together      (exit 2)
  DataError          a data file or a row of it is wrong        (exit 2)
    LayoutError      a data file is of no known layout          (exit 2)
  ModelError         a model folder or weight file is wrong     (exit 2)
  RewardError        a reward gives no usable scores            (exit 2)
  RunFolderError     a run folder cannot be used or written     (exit 2)
  HubError           the hub refuses or cannot be reached       (exit 2)
  TrainingStopped    training ended itself, for a named cause   (exit 3)
  Interrupted        training was asked to stop by a signal     (exit 128 + signal, as shells count it)

Form of a message: `where: what is wrong, got X. What is allowed or what to do.`
"""

import difflib
from collections.abc import Iterable


class PenchantError(Exception):
    """Base of all errors a user can cause and a user can fix."""

    exit_code: int = 2


class ConfigError(PenchantError):
    """A run file or option is wrong."""


class CompositionError(PenchantError):
    """The slots of a method do not fit together."""


class DataError(PenchantError):
    """A data file, or a row of it, is wrong."""


class LayoutError(DataError):
    """A data file has no known layout, or not the columns that it is to be read by."""


class ModelError(PenchantError):
    """A model folder or a weight file is wrong."""


class RewardError(PenchantError):
    """A reward cannot be asked, or what it answers are no scores."""


class RunFolderError(PenchantError):
    """A run folder cannot be used or written."""


class HubError(PenchantError):
    """The Hugging Face hub refuses an upload or cannot be reached."""


class TrainingStopped(PenchantError):
    """Training ended itself, for a named cause; the last good checkpoint is kept."""

    exit_code: int = 3


class Interrupted(PenchantError):
    """Training was asked to stop and did so after a whole step; a checkpoint of that step is written."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unknown(kind: str, got: str, known: Iterable[str], where: str) -> ConfigError:
    """Build the error for a name that is not in a closed list.

    Args:
        kind: What the name is meant to be, such as `method`.
        got: The name that was given.
        known: All names that are allowed.
        where: File and place in it.
    """
    known = sorted(known)
    close = difflib.get_close_matches(got, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigError(f"{where}: unknown {kind} {got!r}.{hint} Known: {', '.join(known)}.")
