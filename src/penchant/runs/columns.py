"""What the columns of a table mean, as a run file or the command line says it."""

from collections.abc import Sequence
from typing import Any, Final

from penchant.data.columns import Columns
from penchant.errors import ConfigError
from penchant.runs.load import validated
from penchant.runs.schema import Columns as Section
from penchant.runs.sentences import at

TYPED: Final = "--column"

_LISTS: Final = ("images", "scores", "ranks", "votes")
"""Meanings that several columns may share, one per candidate."""


def columns_of(section: Section, *, where: str, place: Sequence[str]) -> Columns:
    """The map of a section that is checked already.

    Args:
        section: The section.
        where: File that it stands in, for messages.
        place: Where in the file.

    Raises:
        ConfigError: Two columns contradict each other.
    """
    named: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in section.model_dump(exclude_none=True).items()
    }
    try:
        return Columns(**named)
    except ConfigError as error:
        option, _, reason = str(error).partition(": ")
        inside = option.split(".")[1:]  # the first is `columns` itself
        raise ConfigError(f"{at(where, [*place, *inside])}: {reason}") from None


def typed(assignments: Sequence[str]) -> Columns | None:
    """The map that was typed; None without any.

    Args:
        assignments: Meaning and column, as `prompt=text`; a list names one column each, in their order.

    Raises:
        ConfigError: A meaning is unknown or missing, or two columns contradict each other.
    """
    if not assignments:
        return None
    named: dict[str, list[str]] = {}
    for assignment in assignments:
        name, _, column = assignment.partition("=")
        if not name or not column:
            raise ConfigError(
                f"{TYPED} {assignment}: is not a meaning and its column. Write it as {TYPED} prompt=text."
            )
        named.setdefault(name, []).append(column)
    raw = {name: found if name in _LISTS or len(found) > 1 else found[0] for name, found in named.items()}
    return columns_of(validated(Section, raw, where=TYPED), where=TYPED, place=[])
