"""What a user reads when an option has the wrong type or is out of range, as `must be >= 1, got 0`."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from pydantic_core import ErrorDetails

_WHOLE, _NUMBER, _TEXT = "a whole number", "a number", "a text"
_MAPPING, _LIST = "a mapping of options", "a list"

_KINDS: Final[Mapping[str, str]] = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "string_type": _TEXT,
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dataclass_type": _MAPPING,
}

_RANGES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "greater_than": lambda limits: f"> {limits['gt']:g}",
    "greater_than_equal": lambda limits: f">= {limits['ge']:g}",
    "less_than": lambda limits: f"< {limits['lt']:g}",
    "less_than_equal": lambda limits: f"<= {limits['le']:g}",
    "too_short": lambda limits: f"{_LIST} of at least {limits['min_length']}",
    "too_long": lambda limits: f"{_LIST} of at most {limits['max_length']}",
    "string_too_short": lambda limits: f"{_TEXT} of at least {limits['min_length']} letter",
}


def problem(error: ErrorDetails) -> str:
    """What is wrong with a value, without its place, as `must be a number, got 'many'`.

    Args:
        error: One error of pydantic; not `missing` or `extra_forbidden`, which are about names.
    """
    kind, got, limits = error["type"], shown(error["input"]), error.get("ctx", {})
    if kind == "literal_error":
        return _choice(str(limits["expected"]), error["input"])
    if wanted := _KINDS.get(kind):
        return f"must be {wanted}, got {got}."
    if limit := _RANGES.get(kind):
        return f"must be {limit(limits)}, got {got}."
    return _ended(error["msg"].removeprefix("Value error, "))


def shown(value: object) -> str:
    """A value as it stands in a run file, cut to a readable length."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def at(where: str, place: Sequence[str]) -> str:
    """File and place in it: `run.yaml: training.steps`; only the file at the top."""
    return f"{where}: {'.'.join(place)}" if place else where


def refused(error: ValueError, names: Collection[str]) -> tuple[list[str], str]:
    """Option (none, or one) and problem in the message of a class that refused a value.

    Args:
        error: Message such as `beta must be > 0, got -1`.
        names: Options of the class.
    """
    message = str(error)
    first, _, rest = message.partition(" ")
    return ([first], _ended(rest)) if first in names else ([], _ended(message))


def _choice(expected: str, got: object) -> str:
    names = re.findall(r"'([^']*)'", expected)
    close = difflib.get_close_matches(str(got), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"must be one of {', '.join(names)}, got {shown(got)}.{hint}"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."
