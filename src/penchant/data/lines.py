"""Files of one JSON object per line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penchant.errors import DataError


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with the numbers of their lines; blank lines are skipped, but counted.

    Raises:
        DataError: A line is not an object in JSON and UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, object_of(line, where=f"{path}: line {number}")


def object_of(line: bytes, *, where: str) -> dict[str, Any]:
    """The object in one line; a DataError if it is not an object in JSON and UTF-8."""
    try:
        values = json.loads(line)
        if rb"\ud" in line.lower():
            json.dumps(values, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON, {error.msg} at character {error.pos + 1}.") from error
    except RecursionError as error:
        raise DataError(f"{where}: not JSON that can be read, nested too deeply.") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise DataError(f"{where}: not UTF-8 text ({error.reason}).") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise DataError(f"{where}: not JSON that can be read ({error}).") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: must be an object, got {type(values).__name__}.")
    return values
