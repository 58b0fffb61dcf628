"""Preference data from images that are there already and a table of their scores.

Table: CSV with a header line, or JSONL; `path` (relative to the folder of images), `prompt`, `score` (higher
is better). Other columns are kept with each image, `style`, `source` and `license` under their own names.
"""

import csv
import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from penchant.data.lines import json_lines
from penchant.data.paths import inside
from penchant.data.rows import Candidate, Example
from penchant.errors import ConfigError, DataError
from penchant.shapes import grouping
from penchant.shapes.grouping import PairRule

_NEEDED = ("path", "prompt", "score")


class BuildRule(enum.StrEnum):
    """What becomes an example: one list per prompt, or pairs by a `PairRule` of the same name."""

    BEST_VS_WORST = PairRule.BEST_VS_WORST.value
    ALL = PairRule.ALL.value
    ADJACENT = PairRule.ADJACENT.value
    LIST = "list"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a table gave.

    Attributes:
        examples: Pairs with the winner first, or lists, in the order of the prompts in the table.
        num_prompts: Different prompts in the table.
        num_single: Prompts with one image only; they give nothing.
        num_ties: Comparisons dropped, as equal or closer than the gap.
    """

    examples: list[Example]
    num_prompts: int
    num_single: int
    num_ties: int


def build(folder: Path, table: Path, rule: BuildRule, *, min_gap: float = 0.0) -> Built:
    """Examples by a rule named in words; see `build_pairs` and `build_lists`."""
    if rule is not BuildRule.LIST:
        return build_pairs(folder, table, PairRule(rule.value), min_gap=min_gap)
    if min_gap:
        raise ConfigError(f"min-gap: a list keeps all images, got rule list and {min_gap:g}. Leave it out.")
    return build_lists(folder, table)


def build_pairs(folder: Path, table: Path, rule: PairRule, *, min_gap: float = 0.0) -> Built:
    """Pairs of images of the same prompt, by their scores.

    Args:
        folder: Folder of images.
        table: Table of scores.
        rule: Which comparisons become pairs.
        min_gap: Smallest difference of scores that makes a pair; >= 0.

    Raises:
        ConfigError: The gap is negative.
        DataError: The table is wrong, an image is missing, or no pair comes out.
    """
    if not min_gap >= 0:
        raise ConfigError(f"min-gap: must be >= 0, got {min_gap:g}.")
    groups = _by_prompt(folder, table)
    examples, num_ties = [], 0
    for prompt, candidates in groups.items():
        scores = [candidate.scores["score"] for candidate in candidates]
        decided, dropped = grouping.pairs(scores, rule, min_gap=min_gap)
        num_ties += dropped
        for winner, loser in decided:
            examples.append(
                Example(
                    prompt=prompt,
                    candidates=(candidates[winner], candidates[loser]),
                    preference=(1.0, 0.0),
                    provenance={"table": table.name, "rule": rule.value, "min_gap": min_gap},
                )
            )
    return _built(examples, groups, num_ties, table)


def build_lists(folder: Path, table: Path) -> Built:
    """One example per prompt with all of its images, and their scores as the preference.

    Raises:
        DataError: The table is wrong, an image is missing, or no prompt has two images.
    """
    groups = _by_prompt(folder, table)
    examples = [
        Example(
            prompt=prompt,
            candidates=tuple(candidates),
            preference=tuple(candidate.scores["score"] for candidate in candidates),
            provenance={"table": table.name, "rule": "list"},
        )
        for prompt, candidates in groups.items()
        if len(candidates) > 1
    ]
    return _built(examples, groups, 0, table)


def _built(
    examples: list[Example], groups: Mapping[str, list[Candidate]], num_ties: int, table: Path
) -> Built:
    num_single = sum(len(candidates) == 1 for candidates in groups.values())
    if not examples:
        raise DataError(
            f"{table}: zero usable pairs, got {len(groups)} prompts: {num_single} with one image only, "
            f"{num_ties} comparisons tied or closer than the gap."
        )
    return Built(examples=examples, num_prompts=len(groups), num_single=num_single, num_ties=num_ties)


def _by_prompt(folder: Path, table: Path) -> dict[str, list[Candidate]]:
    """Images by prompt, both in the order of the table."""
    for path, wanted in ((folder, folder.is_dir()), (table, table.is_file())):
        if not wanted:
            raise DataError(f"{path}: no such {'folder' if path is folder else 'file'}.")
    groups: dict[str, list[Candidate]] = {}
    lines: dict[Path, int] = {}
    for number, values in _rows(table):
        where = f"{table}: line {number}"
        for name in _NEEDED:
            if values.get(name) is None:
                raise DataError(f"{where}: column {name!r}: missing. Needed: {', '.join(_NEEDED)}.")
        path = inside(folder, str(values.pop("path")), where=where)
        if (earlier := lines.setdefault(path.resolve(), number)) != number:
            raise DataError(
                f"{where}: the same image as in line {earlier}, got {path.name!r}. Keep one score."
            )
        prompt, score = str(values.pop("prompt")), _score(values.pop("score"), where)
        candidate = Candidate(
            image=path,
            scores={"score": score},
            style=_text(values.pop("style", None)),
            source=_text(values.pop("source", None)),
            license=_text(values.pop("license", None)),
            meta=values,
            where=f"{where}: image {path.name!r}",
        )
        groups.setdefault(prompt, []).append(candidate)
    if not groups:
        raise DataError(f"{table}: no rows.")
    return groups


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered lines of a table."""
    match table.suffix.lower():
        case ".csv":
            with table.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, restkey="_more")
                try:
                    for values in reader:
                        if "_more" in values:
                            raise DataError(
                                f"{table}: line {reader.line_num}: more values than columns. "
                                f"Put text with commas in double quotes."
                            )
                        yield reader.line_num, dict(values)
                except (csv.Error, UnicodeDecodeError) as error:
                    raise DataError(f"{table}: line {reader.line_num + 1}: not CSV ({error}).") from error
        case ".jsonl":
            yield from json_lines(table)
        case other:
            raise DataError(f"{table}: unknown type of table, got {other!r}. Known: .csv, .jsonl.")


def _text(written: Any) -> str | None:
    return str(written) if written not in (None, "") else None


def _score(written: Any, where: str) -> float:
    try:
        score = float(written)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score) or isinstance(written, bool):
        raise DataError(f"{where}: column 'score': must be a number, got {written!r}.")
    return score
