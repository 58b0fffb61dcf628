"""Rewards as a file or the command line names them: `pickscore`, or `{kind: pickscore, model: FOLDER}`."""

from collections.abc import Sequence
from typing import Any

import yaml

from penchant import rewards
from penchant.errors import ConfigError
from penchant.protocols import Reward
from penchant.rewards.combined import Combined, Part
from penchant.runs.override import new_slot
from penchant.runs.schema import Named
from penchant.runs.sentences import at, shown


def reward_of(written: Named, *, where: str, place: list[str]) -> Reward:
    """The reward that is named; its weights are loaded when it first scores.

    Args:
        written: A name, or a mapping with `kind` and options.
        where: File, for messages.
        place: Place in the file.

    Raises:
        ConfigError: The name or an option is unknown, missing, of the wrong type or out of range.
    """
    options: dict[str, Any] = {"kind": written} if isinstance(written, str) else dict(written)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(
            f"{at(where, place)}: option 'kind' is missing. Known: {', '.join(rewards.catalog.names())}."
        )
    found = rewards.catalog.get(kind, where=at(where, place))
    ready: dict[str, Any] = {}
    if found is Combined and "parts" in options:
        ready["parts"] = _parts(options.pop("parts"), where=where, place=[*place, "parts"])
    return new_slot(found, kind, options, where=where, place=place, ready=ready)


def rewards_of(written: Sequence[Named], *, where: str, place: list[str]) -> list[Reward]:
    """The rewards of a list.

    Raises:
        ConfigError: As `reward_of`, or two have one name, under which their scores would be mixed.
    """
    found = [reward_of(one, where=where, place=[*place, str(i)]) for i, one in enumerate(written)]
    names = [reward.name for reward in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"{at(where, place)}: two rewards are called {twice[0]!r}. Remove one, or set the option `name` "
            "where the kind has one."
        )
    return found


def typed(text: str, *, where: str) -> Named:
    """A reward as typed on the command line: a name, or a mapping in YAML.

    Raises:
        ConfigError: It is neither.
    """
    try:
        written = yaml.safe_load(text)
    except yaml.YAMLError:
        written = None
    if not isinstance(written, str | dict):
        raise ConfigError(
            f"{where}: must be a name or a mapping with `kind`, got {shown(text)}. Write it as "
            "'{kind: pickscore, model: FOLDER}'."
        )
    return written


def _parts(written: Any, *, where: str, place: list[str]) -> tuple[Part, ...]:
    """The parts of a combined reward."""
    if not isinstance(written, list) or not all(isinstance(part, dict) for part in written):
        raise ConfigError(f"{at(where, place)}: must be a list of mappings, got {shown(written)}.")
    parts = []
    for number, part in enumerate(written):
        options, inner = dict(part), [*place, str(number)]
        ready = {}
        if "reward" in options:
            ready["reward"] = reward_of(options.pop("reward"), where=where, place=[*inner, "reward"])
        parts.append(new_slot(Part, "combined", options, where=where, place=inner, ready=ready))
    return tuple(parts)
