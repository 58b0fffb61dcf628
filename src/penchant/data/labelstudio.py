"""The JSON export of Label Studio for tasks with a `Pairwise` tag: two images, one vote per annotation.

Read are `data` of a task, and of each annotation that was not cancelled the results of type `pairwise`,
whose `value.selected` is `left` or `right`. The two images are the values of `data` that are paths of images:
left and right as their keys say, else in their order. UNVERIFIED: written from the documentation of the tag;
no export of a running Label Studio was at hand.
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from penchant.data.columns import Columns
from penchant.data.paths import IMAGE_SUFFIXES
from penchant.errors import DataError

COLUMNS = Columns(prompt="prompt", images=("images",), votes=("votes",))
"""How the rows that `row_of` gives are read."""

_PROMPTS = ("prompt", "caption", "text")
_SIDES = ("left", "right")


def is_export(content: Any) -> bool:
    """True if a JSON file holds tasks with annotations."""
    return (
        isinstance(content, list)
        and len(content) > 0
        and all(isinstance(task, dict) and {"data", "annotations"} <= task.keys() for task in content)
    )


def row_of(task: Mapping[str, Any], *, number: int, where: str) -> dict[str, Any]:
    """One flat row of a task: prompt, two images, votes for each; votes are None where nobody has judged.

    Args:
        task: One entry of the file.
        number: Its number in the file, from 1; names it if it has no `id`.
        where: Name of the file, for messages.

    Raises:
        DataError: The task does not hold exactly two images, a vote is for neither side, or something in it
            is not of the form of an export.
    """
    where = f"{where}: task {task.get('id', number)}"
    data = _object(task["data"], "data", where)
    images = {name: path for name, value in data.items() if (path := _path(value)) is not None}
    if len(images) != 2:
        raise DataError(f"{where}: needs two images in its data, got {', '.join(images) or 'none'}.")
    prompt = next((name for name in _PROMPTS if isinstance(data.get(name), str)), None)
    votes = [0, 0]
    for annotation in _objects(task["annotations"], "annotations", where):
        if annotation.get("was_cancelled"):
            continue
        for result in _objects(annotation.get("result", []), "result", where):
            if result.get("type") == "pairwise":
                votes[_side(result, where)] += 1
    rest = {name: value for name, value in data.items() if name not in (*images, prompt)}
    return rest | {
        "prompt": "" if prompt is None else data[prompt],
        "images": [images[name] for name in _left_first(*images)],
        "votes": votes if any(votes) else None,
        "task": task.get("id"),
    }


def _left_first(first: str, second: str) -> tuple[str, str]:
    """The names of the two images, the left one first: by their words, else in the order of the task."""
    return (second, first) if (_sides(first), _sides(second)) == ({"right"}, {"left"}) else (first, second)


def _sides(name: str) -> set[str]:
    """Which of `left` and `right` are words of a name, as in `image_left`, `LEFT-1` and `leftImage`."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)} & set(_SIDES)


def _side(result: Mapping[str, Any], where: str) -> int:
    selected = _object(result.get("value"), "value", where).get("selected")
    if selected not in _SIDES:
        raise DataError(f"{where}: must select left or right, got {selected!r}.")
    return _SIDES.index(selected)


def _object(value: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: key {name!r}: must be an object, got {json.dumps(value)}.")
    return value


def _objects(value: Any, name: str, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f"{where}: key {name!r}: must be a list of objects, got {json.dumps(value)}.")
    return value


def _path(value: Any) -> str | None:
    """The path of an image as it lies beside the export; None for other values.

    `/data/local-files/?d=a/b.png` means `a/b.png`, `/data/upload/1/b.png` means `upload/1/b.png`.
    """
    if not isinstance(value, str):
        return None
    try:
        parts = urlsplit(value)
    except ValueError:  # half an address, such as "http://[x/a.png"
        return None
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].removeprefix("/data/").lstrip("/")
    if PurePosixPath(path).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    return value if parts.scheme else path
