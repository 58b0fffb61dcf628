"""Preference data from images that are there already and a table of their scores.

Table: CSV with a header line, or JSONL; `path` (relative to the folder of images), `prompt`, `score` (higher
is better). Other columns are kept with each image, `style`, `source` and `license` under their own names.
"""

import csv
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from penchant.data.images import is_small
from penchant.data.lines import json_lines
from penchant.data.paths import inside
from penchant.data.rows import Candidate, Example
from penchant.errors import ConfigError, DataError
from penchant.randomness import Randomness
from penchant.shapes import grouping
from penchant.shapes.grouping import PairRule

_NEEDED = ("path", "prompt", "score")


class BuildRule(enum.StrEnum):
    """What becomes an example: a list or a random pair per prompt, or pairs by the `PairRule` of its name."""

    BEST_VS_WORST = PairRule.BEST_VS_WORST.value
    ALL = PairRule.ALL.value
    ADJACENT = PairRule.ADJACENT.value
    RANDOM = "random"
    LIST = "list"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a table gave.

    Attributes:
        examples: Pairs with the winner first, or lists, in the order of the prompts in the table.
        num_prompts: Different prompts in the table.
        num_small: Images left out for their size.
        num_single: Prompts with fewer than two images left; they give nothing.
        num_ties: Comparisons dropped, as equal or closer than the gap.
    """

    examples: list[Example]
    num_prompts: int
    num_small: int
    num_single: int
    num_ties: int


def build(
    folder: Path, table: Path, rule: BuildRule, *, min_gap: float = 0.0, min_size: int | None = None
) -> Built:
    """Examples from images and a table of their scores.

    Args:
        folder: Folder of images.
        table: Table of scores.
        rule: Which comparisons become pairs, or lists.
        min_gap: Smallest difference of scores that makes a pair; >= 0.
        min_size: Shorter side in pixels that an image has at least; None keeps all.

    Raises:
        ConfigError: The gap is negative, or given for lists.
        DataError: The table is wrong, an image is missing, or no example comes out.
    """
    require_gap(rule, min_gap)
    whole = _by_prompt(folder, table)
    groups = {
        prompt: [candidate for candidate in candidates if not is_small([candidate], min_size)]
        for prompt, candidates in whole.items()
    }
    num_small = sum(map(len, whole.values())) - sum(map(len, groups.values()))
    provenance = {"table": table.name, "rule": rule.value, "min_gap": min_gap, "min_size": min_size}
    examples, num_ties = [], 0
    for prompt, candidates in groups.items():
        scores = [candidate.scores["score"] for candidate in candidates]
        found, dropped = examples_of(prompt, candidates, scores, rule, min_gap=min_gap, provenance=provenance)
        examples += found
        num_ties += dropped
    return _built(examples, groups, num_ties, num_small, table)


def require_gap(rule: BuildRule, min_gap: float) -> None:
    """Raise a ConfigError for a smallest gap that is negative or would not be read."""
    if not min_gap >= 0:
        raise ConfigError(f"min-gap: must be >= 0, got {min_gap:g}.")
    if rule is BuildRule.LIST and min_gap:
        raise ConfigError(f"min-gap: a list keeps all images, got rule list and {min_gap:g}. Leave it out.")


def examples_of(
    prompt: str,
    candidates: Sequence[Candidate],
    scores: Sequence[float],
    rule: BuildRule,
    *,
    min_gap: float,
    provenance: Mapping[str, Any],
) -> tuple[list[Example], int]:
    """Examples of one prompt, and the number of comparisons dropped as ties.

    Args:
        prompt: The prompt; it also keys the random pair.
        candidates: Its candidates.
        scores: One score per candidate, higher is better.
        rule: Which comparisons become pairs, or a list of all.
        min_gap: Smallest difference of scores that makes a pair.
        provenance: Stored with every example.
    """
    if len(candidates) < 2:
        return [], 0
    if rule is BuildRule.LIST:
        whole = Example(
            prompt=prompt, candidates=tuple(candidates), preference=tuple(scores), provenance=provenance
        )
        return [whole], 0
    places = list(range(len(candidates)))
    if rule is BuildRule.RANDOM:
        places = Randomness(run=0).permutation(len(candidates), f"pair of {prompt}")[:2]
    compared = PairRule.ALL if rule is BuildRule.RANDOM else PairRule(rule.value)
    decided, num_ties = grouping.pairs([scores[place] for place in places], compared, min_gap=min_gap)
    pairs = [(candidates[places[winner]], candidates[places[loser]]) for winner, loser in decided]
    return [
        Example(prompt=prompt, candidates=pair, preference=(1.0, 0.0), provenance=provenance)
        for pair in pairs
    ], num_ties


def _built(
    examples: list[Example],
    groups: Mapping[str, list[Candidate]],
    num_ties: int,
    num_small: int,
    table: Path,
) -> Built:
    num_single = sum(len(candidates) < 2 for candidates in groups.values())
    if not examples:
        raise DataError(
            f"{table}: zero usable pairs, got {len(groups)} prompts: {num_single} with fewer than two "
            f"images left, {num_small} images smaller than min-size, {num_ties} comparisons tied or closer "
            "than the gap."
        )
    return Built(
        examples=examples,
        num_prompts=len(groups),
        num_small=num_small,
        num_single=num_single,
        num_ties=num_ties,
    )


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
