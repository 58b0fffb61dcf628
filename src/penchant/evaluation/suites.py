"""Prompt sets to evaluate on, each with a hash so that only like is compared with like."""

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.parquet as pq

from penchant.errors import DataError


@final
@dataclass(frozen=True, slots=True)
class PromptSuite:
    """A named list of prompts, each once, in a fixed order."""

    name: str
    prompts: tuple[str, ...]

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the prompts as a JSON list; the name is left out."""
        text = json.dumps(self.prompts, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def prompt_suite(name: str, prompts: Iterable[str], *, where: str) -> PromptSuite:
    """A suite of the distinct, non-empty prompts in their first order.

    Args:
        name: Name of the suite.
        prompts: Prompts; white space at the ends is cut.
        where: Source, for the error sentence.

    Raises:
        DataError: No prompt is left.
    """
    distinct = tuple(dict.fromkeys(prompt.strip() for prompt in prompts if prompt.strip()))
    if not distinct:
        raise DataError(f"{where}: no prompts, got 0. Give at least one prompt that is not empty.")
    return PromptSuite(name, distinct)


def read_suite(path: Path) -> PromptSuite:
    """Read a suite from a file; its name is the file's name without the ending.

    Args:
        path: `.txt` with one prompt a line; `.jsonl` with strings or objects with `prompt` or `caption`;
            `.parquet` with a column `caption` or, without it, `prompt`; `.tsv` with a column `Prompt` (the
            form of PartiPrompts).

    Raises:
        DataError: Unknown ending, unreadable file, missing column or no prompts.
    """
    readers = {".txt": _lines, ".jsonl": _jsonl, ".parquet": _parquet, ".tsv": _tsv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: unknown kind of prompt file, got {path.suffix!r}. Known: {', '.join(readers)}."
        )
    try:
        prompts = reader(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read, {error}. Check the path and the file.") from None
    return prompt_suite(path.stem, prompts, where=str(path))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _jsonl(path: Path) -> list[str]:
    prompts = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON, {error}. Write one object a line.") from None
        prompt = row.get("prompt", row.get("caption")) if isinstance(row, dict) else row
        if not isinstance(prompt, str):
            raise DataError(f"{path}: line {number} has no prompt, got {line[:60]!r}. Add the key 'prompt'.")
        prompts.append(prompt)
    return prompts


def _parquet(path: Path) -> list[str]:
    columns = pq.read_schema(path).names
    name = next((name for name in ("caption", "prompt") if name in columns), None)
    if name is None:
        known = ", ".join(columns)
        raise DataError(
            f"{path}: missing column 'caption' or 'prompt', got {known}. Rename the prompt column."
        )
    prompts = pq.read_table(path, columns=[name]).column(name).to_pylist()
    return [prompt for prompt in prompts if isinstance(prompt, str)]


def _tsv(path: Path) -> list[str]:
    rows = csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    if "Prompt" not in (rows.fieldnames or ()):
        raise DataError(f"{path}: missing column 'Prompt', got {rows.fieldnames}. Check the first line.")
    return [row["Prompt"] or "" for row in rows]
