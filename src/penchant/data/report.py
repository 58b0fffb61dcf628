"""The report on a data set: counts, and problems by row; plain data, drawn by the command line."""

import enum
from dataclasses import asdict, dataclass
from typing import Any, final


class Severity(enum.StrEnum):
    """How much a problem matters.

    ERROR: training would stop at the row, or results would be wrong. WARNING: the row is used, but probably
    not as it was meant. NOTE: good to know.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Kind(enum.StrEnum):
    """What can be found; one line of the report's summary each."""

    UNUSABLE = "no usable row"
    BROKEN = "broken row"
    UNREADABLE = "unreadable image"
    IDENTICAL = "identical sides"
    HUGE_PROMPT = "prompt far too long"
    PROMPT_LEAK = "prompt in two splits"
    IMAGE_LEAK = "image in two splits"
    EMPTY_PROMPT = "empty prompt"
    CUT_PROMPT = "prompt cut"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    UPSCALED = "enlarged image"
    TIE = "tie"
    UNJUDGED = "no preference"
    SIZES_DIFFER = "sides differ in size"
    SHARED_IMAGE = "image under two prompts"


_SEVERITY = {
    **dict.fromkeys(Kind, Severity.NOTE),
    **dict.fromkeys(
        [Kind.EMPTY_PROMPT, Kind.CUT_PROMPT, Kind.DUPLICATE, Kind.CONTRADICTION, Kind.UPSCALED],
        Severity.WARNING,
    ),
    **dict.fromkeys(
        [
            Kind.UNUSABLE,
            Kind.BROKEN,
            Kind.UNREADABLE,
            Kind.IDENTICAL,
            Kind.HUGE_PROMPT,
            Kind.PROMPT_LEAK,
            Kind.IMAGE_LEAK,
        ],
        Severity.ERROR,
    ),
}


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    Attributes:
        kind: What it is.
        row: Number of the row (in JSONL: of the line), the first is 1; None if it is about the whole file.
        text: One sentence part with the numbers.
    """

    kind: Kind
    row: int | None
    text: str

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        return _SEVERITY[self.kind]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts over a data set, and its problems in the order of the rows.

    Attributes:
        path: File or folder.
        content_hash: SHA-256 of the file.
        num_rows: Rows in the data set.
        num_pairs: Comparisons with a winner, over all candidates.
        num_prompts: Different prompts, after normalising, of the rows that can be read.
        num_images: Different images, by content.
        preferred: Rows of two candidates by what was preferred: `first`, `second`, `tie`, `none`.
        sizes: Candidates by `WIDTHxHEIGHT`, the most frequent first.
        splits: Rows by split, rows without one under an empty name; of the rows that can be read.
        styles: Candidates by style, if the data names styles, as `[that won, that lost]` a comparison.
        problems: Findings.
    """

    path: str
    content_hash: str
    num_rows: int
    num_pairs: int
    num_prompts: int
    num_images: int
    preferred: dict[str, int]
    sizes: dict[str, int]
    splits: dict[str, int]
    styles: dict[str, list[int]]
    problems: list[Problem]

    def rows(self, kind: Kind) -> list[int]:
        """Rows with a kind of problem."""
        return [problem.row for problem in self.problems if problem.kind is kind and problem.row is not None]

    def num_of(self, severity: Severity) -> int:
        """Number of problems of a severity."""
        return sum(problem.severity is severity for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, with the rows of each kind of problem under `summary`."""
        found = {problem.kind: None for problem in self.problems}
        summary = {
            kind.value: {
                "severity": _SEVERITY[kind].value,
                "count": sum(problem.kind is kind for problem in self.problems),
                "rows": self.rows(kind),
            }
            for kind in found
        }
        problems = [
            {"kind": p.kind.value, "severity": p.severity.value, "row": p.row, "text": p.text}
            for p in self.problems
        ]
        return asdict(self) | {"summary": summary, "problems": problems}
