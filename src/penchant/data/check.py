"""What is wrong or worth knowing in preference data, row by row."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import final

from penchant.data.dataset import Dataset, require_usable
from penchant.data.images import decode_candidate
from penchant.data.report import Kind, Problem, Report
from penchant.data.rows import Candidate, Example
from penchant.data.split import normalised
from penchant.data.tokens import Tokenizer
from penchant.errors import DataError
from penchant.shapes import Shape, grouping

LONGEST_PROMPT = 10_000


@final
@dataclass(frozen=True, slots=True)
class _Seen:
    """What is remembered of a row to compare it with the others."""

    row: int
    prompt: str
    split: str | None
    images: tuple[str, ...]
    best: str | None


@final
class _Images:
    """Size or error of each different image; each is decoded once."""

    def __init__(self) -> None:
        self.sizes: Counter[str] = Counter()
        self._known: dict[str, tuple[int, int] | DataError] = {}

    def __len__(self) -> int:
        return len(self._known)

    def size(self, candidate: Candidate) -> tuple[int, int]:
        """Width and height; raises the DataError of an unreadable image."""
        name = candidate.content_hash
        if name not in self._known:
            try:
                self._known[name] = decode_candidate(candidate).size
            except DataError as error:
                self._known[name] = error
        size = self._known[name]
        if isinstance(size, DataError):
            decode_candidate(candidate)  # again, for a message that names this row
            raise size
        self.sizes[f"{size[0]}x{size[1]}"] += 1
        return size


@final
class _Counts:
    """Sums over the rows that could be read."""

    def __init__(self) -> None:
        self.num_pairs = 0
        self.preferred: dict[str, int] = {"first": 0, "second": 0, "tie": 0, "none": 0}
        self.styles: dict[str, list[int]] = {}

    def add(self, example: Example) -> None:
        """Count one row."""
        wins, losses = grouping.tally(example.preference or [0.0] * len(example.candidates))
        self.num_pairs += sum(wins)
        if len(example.candidates) == 2:
            judged = "first" if wins[0] else "second" if wins[1] else "tie"
            self.preferred["none" if example.preference is None else judged] += 1
        for candidate, won, lost in zip(example.candidates, wins, losses, strict=True):
            if candidate.style is not None:
                by_style = self.styles.setdefault(candidate.style, [0, 0])
                by_style[0] += won > 0
                by_style[1] += lost > 0


def check(dataset: Dataset, *, tokenizer: Tokenizer | None = None, size: int | None = None) -> Report:
    """Read every row, decode every image, and compare the rows with each other.

    Args:
        dataset: What `store.read` returns, best with `keep_broken`; with several splits in it, leakage
            between them is found.
        tokenizer: Finds prompts that the text encoder would cut.
        size: Side in pixels that images would be trained at; finds images that would be enlarged.
    """
    images, counts = _Images(), _Counts()
    known = [header for header in dataset.headers if header.error is None]
    problems: list[Problem] = []
    seen: list[_Seen] = []
    for position, header in enumerate(dataset.headers):
        try:
            if header.error is not None:
                raise header.error
            example = dataset[position]
            row = _seen(example, header.row)
        except DataError as error:
            problems.append(Problem(Kind.BROKEN, header.row, _without_place(error, dataset, header.row)))
            continue
        found = [
            *_prompt_problems(example, tokenizer),
            *_preference_problems(example, row.images),
            *_image_problems(example, images, size),
        ]
        problems += [Problem(kind, header.row, text) for kind, text in found]
        counts.add(example)
        seen.append(row)
    problems += [*_duplicates(seen), *_leaks(seen), *_shared_images(seen), *_unusable(dataset)]
    return Report(
        path=str(dataset.path),
        content_hash=dataset.content_hash,
        num_rows=len(dataset),
        num_pairs=counts.num_pairs,
        num_prompts=len({normalised(header.prompt) for header in known}),
        num_images=len(images),
        preferred=counts.preferred,
        sizes=dict(images.sizes.most_common()),
        splits=dict(Counter(header.split or "" for header in known)),
        styles=counts.styles,
        problems=sorted(problems, key=lambda problem: problem.row or 0),
    )


def _seen(example: Example, row: int) -> _Seen:
    hashes = tuple(candidate.content_hash for candidate in example.candidates)
    scores = example.preference
    best = None
    if scores is not None and len(set(scores)) > 1:
        best = hashes[grouping.order(scores)[0]]
    return _Seen(row, normalised(example.prompt), example.split, hashes, best)


def _prompt_problems(example: Example, tokenizer: Tokenizer | None) -> Iterator[tuple[Kind, str]]:
    prompt = example.prompt
    if not prompt.strip():
        yield Kind.EMPTY_PROMPT, "the prompt is empty"
    elif len(prompt) >= LONGEST_PROMPT and example.candidates[0].text is None:
        yield Kind.HUGE_PROMPT, f"the prompt has {len(prompt)} characters; a text encoder reads a few hundred"
    if tokenizer is not None:
        num_tokens = len(tokenizer(prompt)["input_ids"])
        if num_tokens > tokenizer.model_max_length:
            yield (
                Kind.CUT_PROMPT,
                f"the prompt has {num_tokens} tokens, the model reads {tokenizer.model_max_length}",
            )


def _preference_problems(example: Example, hashes: tuple[str, ...]) -> Iterator[tuple[Kind, str]]:
    for first, second in combinations(range(len(hashes)), 2):
        if hashes[first] == hashes[second]:
            yield Kind.IDENTICAL, f"candidates {first} and {second} are the same"
    if example.preference is None:
        if all(candidate.label is None for candidate in example.candidates):
            yield Kind.UNJUDGED, "nobody has judged the row"
    elif num_ties := grouping.pairs(example.preference).num_ties:
        yield Kind.TIE, f"{num_ties} of {len(hashes) * (len(hashes) - 1) // 2} comparisons are ties"


def _image_problems(example: Example, images: _Images, size: int | None) -> Iterator[tuple[Kind, str]]:
    sizes = []
    for candidate in example.candidates:
        if candidate.image is None:
            continue
        try:
            sizes.append(images.size(candidate))
        except DataError as error:
            yield Kind.UNREADABLE, str(error).removeprefix(f"{example.where}: ")
    if len(set(sizes)) > 1:
        yield Kind.SIZES_DIFFER, ", ".join(f"{width}x{height}" for width, height in sizes)
    shortest = min((min(pair) for pair in sizes), default=None)
    if size is not None and shortest is not None and shortest < size:
        yield Kind.UPSCALED, f"short side of {shortest} px would be enlarged to {size}"


def _duplicates(seen: Iterable[_Seen]) -> Iterator[Problem]:
    first: dict[tuple[str, ...], _Seen] = {}
    for row in seen:
        earlier = first.setdefault((row.prompt, *sorted(row.images)), row)
        if earlier is row:
            continue
        if row.best is not None and earlier.best is not None and row.best != earlier.best:
            yield Problem(
                Kind.CONTRADICTION, row.row, f"row {earlier.row} prefers the other of the same pair"
            )
        else:
            yield Problem(Kind.DUPLICATE, row.row, f"same prompt and candidates as row {earlier.row}")


def _leaks(seen: Iterable[_Seen]) -> Iterator[Problem]:
    prompts: dict[str, _Seen] = {}
    images: dict[str, _Seen] = {}
    for row in seen:
        if row.split is None:
            continue
        earlier = prompts.setdefault(row.prompt, row)
        if earlier.split != row.split:
            yield Problem(
                Kind.PROMPT_LEAK, row.row, f"in {row.split!r}, and row {earlier.row} in {earlier.split!r}"
            )
        for name in dict.fromkeys(row.images):
            earlier = images.setdefault(name, row)
            if earlier.split != row.split:
                text = f"in {row.split!r}, and row {earlier.row} in {earlier.split!r}"
                yield Problem(Kind.IMAGE_LEAK, row.row, text)


def _shared_images(seen: Iterable[_Seen]) -> Iterator[Problem]:
    first: dict[str, _Seen] = {}
    for row in seen:
        for name in dict.fromkeys(row.images):
            earlier = first.setdefault(name, row)
            if earlier.prompt != row.prompt:
                yield Problem(Kind.SHARED_IMAGE, row.row, f"the image is also in row {earlier.row}")


def _unusable(dataset: Dataset) -> Iterator[Problem]:
    labelled = any(header.labelled for header in dataset.headers)
    try:
        require_usable(dataset, Shape.UNARY if labelled else Shape.PAIR)
    except DataError as error:
        yield Problem(Kind.UNUSABLE, None, str(error).removeprefix(f"{dataset.path}: "))


def _without_place(error: DataError, dataset: Dataset, row: int) -> str:
    text = str(error).removeprefix(f"{dataset.path}: ")
    return text.removeprefix(f"row {row}: ").removeprefix(f"line {row}: ")
