"""JSONL: one example per line, with image paths relative to the file, or with texts.

Forms of a line: `{"prompt", "chosen", "rejected"}`; `{"prompt", "images", "scores"}`;
`{"prompt", "texts", "scores"}`; `{"prompt", "image" or "text", "label": true or false}`. `split` may be there
too; all other keys go to the provenance. In the first form `"kind": "image"` or `"text"` says what the sides
are; without it they are images when both end like an image file, and texts when neither does.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from penchant.data.dataset import Header
from penchant.data.paths import IMAGE_SUFFIXES, Place, inside
from penchant.data.rows import Candidate, Example
from penchant.data.tables import JsonLines
from penchant.errors import DataError

FORMS = frozenset({"chosen", "images", "texts", "image", "text"})
"""Keys by which the forms differ; a file whose first line has none of them is of another layout."""

_FORMS = "chosen and rejected; images and scores; texts and scores; image or text and label"


@final
class JsonlRows:
    """The lines of one file, read as examples; images stay paths.

    Attributes:
        files: The file, and after `headers()` the images that it names.
    """

    def __init__(self, lines: JsonLines) -> None:
        self.lines, self.blocks = lines, lines.blocks
        self.files: Sequence[Place] = lines.files

    def splits(self) -> Iterator[str | None]:
        """Split of every line; None where it is not text."""
        return (_split(row) for row in self.lines.light(["split"]))

    def headers(self) -> list[Header]:
        """Number, prompt, preference and split of every line; all lines are checked here."""
        headers, images = [], {}
        for position, row in enumerate(self.lines.light(())):
            number, split = self.lines.number(position), _split(row)  # reading the example takes it out
            try:
                example = self._example(row, position)
            except DataError as error:
                headers.append(Header.broken(number, split, error))
                continue
            images |= {c.image: None for c in example.candidates if isinstance(c.image, Path)}
            headers.append(
                Header(
                    row=number,
                    prompt=example.prompt,
                    preference=example.preference,
                    split=example.split,
                    labelled=any(candidate.label is not None for candidate in example.candidates),
                )
            )
        self.files = [*self.lines.files, *images]
        return headers

    def example(self, position: int) -> Example:
        """The example at a position, counted from 0."""
        return self._example(self.lines.row(position), position)

    def _example(self, row: dict[str, Any] | DataError, position: int) -> Example:
        if isinstance(row, DataError):
            raise row
        return _example(row, self.lines.path.parent, self.lines.where(position))


def _split(row: dict[str, Any] | DataError) -> str | None:
    split = None if isinstance(row, DataError) else row.get("split")
    return split if isinstance(split, str) else None


def _example(values: dict[str, Any], folder: Path, where: str) -> Example:
    line = _Line(values, folder, where)
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
