"""Whether a run may continue under the run file of now."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from penchant.errors import RunFolderError
from penchant.runs.folder import RunFolder
from penchant.runs.load import load
from penchant.runs.schema import RunFile

MAY_CHANGE: Final = frozenset(
    {"training.checkpoint_every", "training.keep_checkpoints", "training.heldout_every", "output"}
)
"""Options that may differ when a run continues: they change what is saved and measured, not what is learnt.

`training.steps` may grow besides, with a constant schedule; `evaluation` may change, it comes after training.
"""


def open_to_resume(path: Path, run: RunFile, *, where: str) -> RunFolder:
    """The folder of a run that was started with the same options.

    Args:
        path: The run folder.
        run: The run file of now.
        where: Name of the run file of now, for messages.

    Raises:
        RunFolderError: There is no run there, or its run file differs in what may not change.
    """
    folder = RunFolder.open_existing(path)
    refuse_changes(load(folder.run_file), run, where=where)
    return folder


def changes(old: RunFile, new: RunFile) -> list[str]:
    """What differs between two run files, one line each: `training.learning_rate: 0.0002 -> 0.001`."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{name}: {_word(before.get(name))} -> {_word(after.get(name))}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def refuse_changes(old: RunFile, new: RunFile, *, where: str) -> None:
    """Refuse to continue a run under options that would make it another one.

    Args:
        old: The run file in the run folder.
        new: The run file of now.
        where: Name of the run file of now, for messages.

    Raises:
        RunFolderError: An option differs that is not in `MAY_CHANGE`; says which, from what to what.
    """
    refused = [change for change in changes(old, new) if not _allowed(change.split(":")[0], old, new)]
    if refused:
        raise RunFolderError(
            f"{where}: has changed since the run was started: {'; '.join(refused)}. Undo this, "
            "or start anew with --overwrite or another output. Only more training.steps (constant schedule), "
            "checkpoint_every, keep_checkpoints, heldout_every and evaluation may change."
        )


def _allowed(name: str, old: RunFile, new: RunFile) -> bool:
    if name == "training.steps":
        return new.training.steps > old.training.steps and new.training.schedule == "constant"
    return name in MAY_CHANGE or name.startswith("evaluation.")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = item
    return flat


def _word(value: object) -> str:
    return "null" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
