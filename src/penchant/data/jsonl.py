"""JSONL: one example per line, with image paths relative to the file, or with texts.

Forms of a line: `{"prompt", "chosen", "rejected"}`; `{"prompt", "images", "scores"}`;
`{"prompt", "texts", "scores"}`; `{"prompt", "image" or "text", "label": true or false}`. `split` may be there
too; all other keys go to the provenance. In the first form `"kind": "image"` or `"text"` says what the sides
are; without it they are images when both end like an image file, and texts when neither does.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from penchant.data.dataset import Dataset, Header
from penchant.data.lines import json_lines
from penchant.data.paths import IMAGE_SUFFIXES, inside
from penchant.data.rows import Candidate, Example
from penchant.errors import DataError

_FORMS = "chosen and rejected; images and scores; texts and scores; image or text and label"


@final
@dataclass(frozen=True, slots=True)
class JsonlRows:
    """Checked lines of one file; images stay paths."""

    examples: list[Example]

    def example(self, position: int) -> Example:
        """The example at a position, counted from 0."""
        return self.examples[position]


def read_jsonl(path: Path) -> Dataset:
    """The examples of a file; blank lines are skipped, but counted in line numbers.

    Raises:
        DataError: The file is empty, a line is not JSON or has an unknown form, or an image is missing.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty file, got 0 bytes.")
    numbered = [(number, _example(line, path, number)) for number, line in json_lines(path)]
    if not numbered:
        raise DataError(f"{path}: no rows, got blank lines only.")
    headers = [
        Header(
            row=number,
            prompt=example.prompt,
            preference=example.preference,
            split=example.split,
            labelled=any(candidate.label is not None for candidate in example.candidates),
        )
        for number, example in numbered
    ]
    examples = [example for _, example in numbered]
    images = {c.image: None for e in examples for c in e.candidates if isinstance(c.image, Path)}
    return Dataset(path, headers, JsonlRows(examples).example, files=[path, *images])


def _example(values: dict[str, Any], path: Path, number: int) -> Example:
    line = _Line(values, path.parent, f"{path}: line {number}")
    prompt = line.take("prompt", str, "text")
    split = line.take("split", str, "text") if "split" in values else None
    preference: tuple[float, ...] | None
    if "chosen" in values:
        preference, candidates = (1.0, 0.0), line.sides()
    elif "images" in values or "texts" in values:
        kind = "images" if "images" in values else "texts"
        items = line.take(kind, list, "a list")
        candidates = tuple(line.candidate(kind[:-1], item) for item in items)
        preference = line.scores(len(items))
    elif "image" in values or "text" in values:
        kind = "image" if "image" in values else "text"
        desirable = line.take("label", bool, "true or false")
        candidates = (line.candidate(kind, values.pop(kind), label=1 if desirable else -1),)
        preference = None
    else:
        raise DataError(f"{line.where}: unknown form, got {', '.join(values) or 'no keys'}. Known: {_FORMS}.")
    return Example(
        prompt=prompt,
        candidates=candidates,
        preference=preference,
        split=split,
        provenance=values,
        where=line.where,
    )


@final
@dataclass(frozen=True, slots=True)
class _Line:
    """One line; what is read is taken out, so that the rest is the provenance."""

    values: dict[str, Any]
    folder: Path
    where: str

    def take(self, key: str, kind: type, wanted: str) -> Any:
        """Value of a key that must be there and of one type."""
        if key not in self.values:
            raise DataError(f"{self.where}: key {key!r}: missing, got {', '.join(self.values) or 'no keys'}.")
        value = self.values.pop(key)
        if not isinstance(value, kind):
            raise DataError(f"{self.where}: key {key!r}: must be {wanted}, got {json.dumps(value)}.")
        return value

    def candidate(self, kind: str, item: Any, *, label: int | None = None) -> Candidate:
        """One image or text."""
        if not isinstance(item, str):
            wanted = "a path" if kind == "image" else "text"
            raise DataError(f"{self.where}: {kind}: must be {wanted}, got {json.dumps(item)}.")
        if kind == "text":
            return Candidate(text=item, label=label, where=f"{self.where}: text")
        path = inside(self.folder, item, where=self.where)
        return Candidate(image=path, label=label, where=f"{self.where}: image {item!r}")

    def sides(self) -> tuple[Candidate, Candidate]:
        """The chosen and the rejected candidate."""
        chosen, rejected = (self.take(key, str, "a path or text") for key in ("chosen", "rejected"))
        kind = self.values.pop("kind", None)
        if kind is None:
            images = [Path(side).suffix.lower() in IMAGE_SUFFIXES for side in (chosen, rejected)]
            if any(images) and not all(images):
                raise DataError(
                    f"{self.where}: one side is an image path and the other is not, got {chosen!r} and "
                    f'{rejected!r}. Say which with "kind": "image" or "kind": "text".'
                )
            kind = "image" if all(images) else "text"
        if kind not in ("image", "text"):
            raise DataError(f"{self.where}: key 'kind': must be image or text, got {json.dumps(kind)}.")
        return self.candidate(kind, chosen), self.candidate(kind, rejected)

    def scores(self, num_candidates: int) -> tuple[float, ...]:
        """One finite number per candidate."""
        scores = self.take("scores", list, "a list")
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise DataError(f"{self.where}: key 'scores': must be numbers, got {json.dumps(score)}.")
        if len(scores) != num_candidates:
            raise DataError(
                f"{self.where}: key 'scores': needs one score per candidate, got {len(scores)} for "
                f"{num_candidates}."
            )
        try:
            return tuple(float(score) for score in scores)
        except OverflowError as error:
            raise DataError(f"{self.where}: key 'scores': a number is too large.") from error
