"""The stored example: one prompt, its candidates and what was preferred; everything else derives from it.

Axes: N candidates.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

from penchant.errors import DataError
from penchant.shapes import grouping
from penchant.shapes.grouping import PairRule, UnaryRule

SCHEMA_VERSION = 1


@final
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One image or one text for a prompt, and what is known of it.

    Attributes:
        image: The encoded image (PNG, JPEG, ...), or the path of its file; it is not decoded here.
        text: The text, for language data. Exactly one of image and text is set.
        scores: Score by the name of the reward that gave it, higher is better.
        label: +1 desirable, -1 undesirable, when it was judged alone.
        votes: How many people preferred it.
        style: Style of the drawing, where the data set names it.
        source: Where it comes from: a generator or a collection.
        license: Licence it may be used under.
        mask: Reserved: labels per pixel, as an encoded one-channel image. Stored, not read by any method yet.
        segments: Reserved: labels per segment of a text or video. Stored, not read by any method yet.
        meta: Anything else, as plain JSON values.
        where: Place it was read from, for messages; not stored and not compared.
    """

    image: bytes | Path | None = None
    text: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    label: int | None = None
    votes: int | None = None
    style: str | None = None
    source: str | None = None
    license: str | None = None
    mask: bytes | None = None
    segments: tuple[float, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="candidate", compare=False)

    def __post_init__(self) -> None:
        if (self.image is None) == (self.text is None):
            raise DataError(f"{self.where}: a candidate has either an image or a text, got both or none.")
        if self.label not in (None, 1, -1):
            raise DataError(f"{self.where}: label must be 1, -1 or none, got {self.label}.")

    def content(self) -> bytes:
        """The encoded image, read from its file if need be, or the text in UTF-8."""
        if self.text is not None:
            return self.text.encode()
        if isinstance(self.image, bytes):
            return self.image
        assert self.image is not None
        try:
            return self.image.read_bytes()
        except OSError as error:
            raise DataError(f"{self.where}: cannot read the image ({error.strerror}).") from error

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the content, in hex; equal for equal files, wherever they lie."""
        return hashlib.sha256(self.content()).hexdigest()


@final
@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt with its N candidates.

    Attributes:
        prompt: What was asked for; may be empty for data without prompts.
        candidates: The N candidates, N >= 1, in the order of the file.
        preference: One score per candidate, higher is better, equal is a tie; None if nobody has judged.
            A label 1/0 or 0.5/0.5 of Pick-a-Pic is such a score.
        split: Name of the part of the data it belongs to, such as `train`.
        provenance: How it came about, as plain JSON values.
        where: Place it was read from, for messages; not stored and not compared.
    """

    prompt: str
    candidates: tuple[Candidate, ...]
    preference: tuple[float, ...] | None = None
    split: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="example", compare=False)

    def __post_init__(self) -> None:
        if not self.candidates:
            raise DataError(f"{self.where}: an example needs at least one candidate, got none.")
        if self.preference is None:
            return
        if len(self.preference) != len(self.candidates):
            raise DataError(
                f"{self.where}: preference needs one score per candidate, got {len(self.preference)} scores "
                f"for {len(self.candidates)} candidates."
            )
        if not all(math.isfinite(score) for score in self.preference):
            raise DataError(f"{self.where}: scores must be finite, got {list(self.preference)}.")

    @cached_property
    def id(self) -> str:
        """Name derived from prompt and candidates; the same in every file, split and labelling."""
        parts = [self.prompt, *(candidate.content_hash for candidate in self.candidates)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """How candidates with scores become what a method learns from.

    Attributes:
        pairs: Which comparisons become pairs.
        min_gap: Smallest difference of scores that makes a pair; >= 0.
        labels: Which candidates are desirable.
        top_k: Candidates of a ranked list that are kept, the best ones; >= 2, None keeps all.
        min_size: Shorter side in pixels that every image of a group has at least; None keeps all.
    """

    pairs: PairRule = PairRule.ALL
    min_gap: float = 0.0
    labels: UnaryRule = UnaryRule.PREFERRED_ONCE
    top_k: int | None = None
    min_size: int | None = None


DEFAULT_RULES: Final = GroupRules()
"""All pairs, labels of candidates that won once, whole lists."""


def as_pairs(
    example: Example, rule: PairRule = PairRule.ALL, *, min_gap: float = 0.0
) -> list[tuple[Candidate, Candidate]]:
    """Pairs of (winner, loser) that the preference supports; ties and unjudged examples give none.

    Args:
        example: Prompt with candidates.
        rule: Which comparisons are made.
        min_gap: Smallest difference of scores that makes a pair; >= 0.
    """
    if not example.preference:
        return []
    decided = grouping.pairs(example.preference, rule, min_gap=min_gap).decided
    return [(example.candidates[winner], example.candidates[loser]) for winner, loser in decided]


def as_unary(example: Example, rule: UnaryRule = UnaryRule.PREFERRED_ONCE) -> list[tuple[Candidate, int]]:
    """Each labelled candidate with +1 (desirable) or -1 (undesirable).

    A label of its own counts before the preference; candidates that get no label are left out.
    """
    if example.preference is None or len(example.candidates) == 1:
        derived = [0] * len(example.candidates)
    else:
        derived = grouping.unary(*grouping.tally(example.preference), rule)
    labels = [own.label or label for own, label in zip(example.candidates, derived, strict=True)]
    return [(candidate, label) for candidate, label in zip(example.candidates, labels, strict=True) if label]


def as_ranked(example: Example, *, top_k: int | None = None) -> tuple[list[Candidate], list[float]]:
    """The candidates best first, and for each its share of pairwise wins phi in [0, 1].

    Wins are counted over every reward that has scored all candidates; without one, over the preference.

    Args:
        example: Prompt with candidates.
        top_k: How many are kept, the best ones; phi still counts wins over the others too.

    Raises:
        DataError: The example has fewer than two candidates, or neither scores nor a preference.
    """
    rewards = _rewards(example)
    if not rewards or len(example.candidates) < 2:
        raise DataError(
            f"{example.where}: cannot be ranked, got {len(example.candidates)} candidate(s) and "
            f"{len(rewards)} score rows. A ranked list needs two candidates, and a score for each."
        )
    best_first, phi = grouping.ranked(rewards)
    best_first = best_first[:top_k]
    return [example.candidates[i] for i in best_first], [phi[i] for i in best_first]


def is_ranked(example: Example) -> bool:
    """True if somebody, or a reward, has judged all candidates."""
    return bool(_rewards(example))


def _rewards(example: Example) -> list[list[float]]:
    """Scores of all candidates by every reward that has scored them all; without one, the preference."""
    shared = set.intersection(*(set(candidate.scores) for candidate in example.candidates))
    rewards = [[c.scores[name] for c in example.candidates] for name in sorted(shared)]
    if not rewards and example.preference is not None:
        rewards = [list(example.preference)]
    return rewards


def to_dict(example: Example) -> dict[str, Any]:
    """The example as plain values, with `schema_version`; images as bytes, also those that were paths."""
    return {
        "schema_version": SCHEMA_VERSION,
        "prompt": example.prompt,
        "candidates": [_candidate_to_dict(candidate) for candidate in example.candidates],
        "preference": None if example.preference is None else list(example.preference),
        "split": example.split,
        "provenance": dict(example.provenance),
    }


def from_dict(stored: Mapping[str, Any], *, where: str = "example") -> Example:
    """The example that `to_dict` stored.

    Args:
        stored: Plain values of one example.
        where: Place it was read from, for messages.

    Raises:
        DataError: It was stored by a newer version of the library, or breaks the schema.
    """
    require_known_version(stored["schema_version"], where=where)
    candidates = tuple(
        Candidate(
            **{
                **values,
                "segments": None if values["segments"] is None else tuple(values["segments"]),
                "where": f"{where}: candidate {number}",
            }
        )
        for number, values in enumerate(stored["candidates"])
    )
    preference = stored["preference"]
    return Example(
        prompt=stored["prompt"],
        candidates=candidates,
        preference=None if preference is None else tuple(preference),
        split=stored["split"],
        provenance=stored["provenance"],
        where=where,
    )


def require_known_version(version: int, *, where: str) -> None:
    """Raise a DataError if a record was stored by a newer version of the library."""
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{where}: written in a newer format, got schema version {version}. "
            f"This Penchant reads up to version {SCHEMA_VERSION}; update it."
        )


def _candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "image": None if candidate.image is None else candidate.content(),
        "text": candidate.text,
        "scores": dict(candidate.scores),
        "label": candidate.label,
        "votes": candidate.votes,
        "style": candidate.style,
        "source": candidate.source,
        "license": candidate.license,
        "mask": candidate.mask,
        "segments": None if candidate.segments is None else list(candidate.segments),
        "meta": dict(candidate.meta),
    }
