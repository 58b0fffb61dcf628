"""Folders of images: `w/` and `l/` with equal names, or `NAME__0.png`, `NAME__1.png` with 0 as the best.

The prompt of NAME is in `captions.json` as `{"NAME": "prompt"}`, or in `NAME.txt` beside the best image.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

from penchant.data.dataset import Header
from penchant.data.paths import images_in, inside
from penchant.data.rows import Candidate, Example
from penchant.errors import DataError

_CAPTIONS = "captions.json"
_LAYOUTS = "w/NAME.png and l/NAME.png, or NAME__0.png and NAME__1.png"


@final
@dataclass(frozen=True, slots=True)
class FolderRows:
    """Image files by name, best first; the first of K images scores K - 1, the last 0.

    Attributes:
        folder: The folder.
        names: Name of each example, sorted.
        images: Image files of each example, best first.
        prompts: Prompt of each example.
    """

    folder: Path
    names: list[str]
    images: list[list[Path]]
    prompts: list[str]

    @property
    def blocks(self) -> list[int]:
        """Rows of each piece that is read at once: files lie alone."""
        return [1] * len(self.names)

    @property
    def files(self) -> list[Path]:
        """The images and the files of the prompts."""
        return [*(path for images in self.images for path in images), *_caption_files(self.folder)]

    def splits(self) -> None:
        """A folder of images has no splits."""
        return None

    def headers(self) -> list[Header]:
        """Prompt and preference of each example."""
        return [
            Header(row=number, prompt=prompt, preference=_falling(len(images)), split=None)
            for number, (prompt, images) in enumerate(zip(self.prompts, self.images, strict=True), start=1)
        ]

    def example(self, position: int) -> Example:
        """The example at a position, counted from 0."""
        images = self.images[position]
        return Example(
            prompt=self.prompts[position],
            candidates=tuple(Candidate(image=path, where=str(path)) for path in images),
            preference=_falling(len(images)),
            provenance={"name": self.names[position]},
            where=f"{self.folder}: {self.names[position]!r}",
        )


def folder_rows(folder: Path) -> FolderRows:
    """The examples of a folder.

    Raises:
        DataError: The folder has no known layout, an image has no partner, or a prompt is missing.
    """
    named = _winners_and_losers(folder) if has_sides(folder) else _numbered(folder)
    captions = _captions(folder)
    names = sorted(named)
    prompts = [_prompt(folder, captions, name, named[name][0]) for name in names]
    return FolderRows(folder, names, [named[name] for name in names], prompts)


def has_sides(folder: Path) -> bool:
    """True if a folder has the sub-folders of winners and losers."""
    return (folder / "w").is_dir() and (folder / "l").is_dir()


def _falling(count: int) -> tuple[float, ...]:
    return tuple(float(score) for score in reversed(range(count)))


def _winners_and_losers(folder: Path) -> dict[str, list[Path]]:
    winners, losers = (_by_stem(folder, side) for side in ("w", "l"))
    if not winners and not losers:
        raise DataError(
            f"{folder}: no images in w/ and l/. Put the preferred images in w/, the others in l/."
        )
    for name in sorted(winners.keys() ^ losers.keys()):
        has, lacks = ("w", "l") if name in winners else ("l", "w")
        raise DataError(
            f"{folder}: {name!r} is in {has}/ but not in {lacks}/. Every name needs an image in both."
        )
    return {name: [winners[name], losers[name]] for name in winners}


def _by_stem(folder: Path, side: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_in(folder / side):
        checked = inside(folder, f"{side}/{path.name}", where=str(folder))
        if path.stem in found:
            raise DataError(
                f"{folder}: two images named {path.stem!r} in {side}/, got {found[path.stem].name} and "
                f"{path.name}. Keep one."
            )
        found[path.stem] = checked
    return found


def _numbered(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, dict[int, Path]] = {}
    for path in images_in(folder):
        name, mark, rank = path.stem.rpartition("__")
        if not mark or not rank.isdecimal():
            raise DataError(f"{folder}: unknown layout, got {path.name}. Known: {_LAYOUTS}.")
        taken = found.setdefault(name, {})
        if int(rank) in taken:
            raise DataError(f"{folder}: two images numbered {rank} for {name!r}. Keep one.")
        taken[int(rank)] = inside(folder, path.name, where=str(folder))
    if not found:
        raise DataError(f"{folder}: no images in a known layout. Known: {_LAYOUTS}.")
    for name, ranks in sorted(found.items()):
        if sorted(ranks) != list(range(len(ranks))) or len(ranks) < 2:
            numbers = ", ".join(map(str, sorted(ranks)))
            raise DataError(
                f"{folder}: {name!r} must be numbered 0 (best), 1, ... without a gap, got {numbers}."
            )
    return {name: [ranks[rank] for rank in sorted(ranks)] for name, ranks in found.items()}


def _captions(folder: Path) -> dict[str, str] | None:
    """Content of captions.json; None if there is no such file."""
    path = folder / _CAPTIONS
    if not path.exists():
        return None
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}).") from error
    if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
        raise DataError(f'{path}: must map names to prompts, like {{"NAME": "prompt"}}.')
    return captions


def _prompt(folder: Path, captions: dict[str, str] | None, name: str, best: Path) -> str:
    if captions is not None:
        if name not in captions:
            raise DataError(f"{folder / _CAPTIONS}: no prompt for {name!r}.")
        return captions[name]
    beside = best.with_name(f"{name}.txt")
    if not beside.is_file():
        raise DataError(f"{folder}: no prompt for {name!r}. Write it to {_CAPTIONS} or to {beside}.")
    try:
        return beside.read_text(encoding="utf-8").strip()
    except ValueError as error:
        raise DataError(f"{beside}: not UTF-8 text.") from error


def _caption_files(folder: Path) -> list[Path]:
    if (folder / _CAPTIONS).exists():
        return [folder / _CAPTIONS]
    return sorted([*folder.glob("*.txt"), *folder.glob("w/*.txt")])
