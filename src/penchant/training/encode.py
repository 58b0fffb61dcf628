"""Images and prompts through VAE and text encoder once.

Axes: N groups, F variants (windows, mirrored or not), K candidates.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, final

import torch
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor

from penchant.data.buckets import Size, nearest
from penchant.data.images import cut, decode_candidate, dimensions, framing, is_small, prepare
from penchant.data.rows import (
    DEFAULT_RULES,
    Candidate,
    Example,
    GroupRules,
    as_pairs,
    as_ranked,
    as_unary,
    is_ranked,
)
from penchant.errors import DataError
from penchant.protocols import Condition, DiffusionFamily, Framing
from penchant.shapes import Shape
from penchant.training.source import EncodedExamples
from penchant.training.table import InMemory, Rows, Table

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PROMPTS_AT_ONCE: Final = 64

TOO_SMALL: Final = "%s: %d of %d groups are left out: the shorter side of an image is below min_size, %d px"
"""What a user is told of small images: name of the data, groups left out, groups in all, limit."""


class Encoders(Protocol):
    """What encoding needs of a `DiffusionFamily`; the methods are those of it."""

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Condition of each prompt, one row each."""
        ...

    def image_conditions(self, framings: Sequence[Framing]) -> Condition:
        """What the model is told of each image beside its prompt."""
        ...

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the scaled latent posterior."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One training group before its images are read: the candidates, best first, and their scores."""

    id: str
    prompt: str
    candidates: Sequence[Candidate]
    score: Sequence[float] | None = None


def groups_of(
    examples: Iterable[Example], shape: Shape, *, where: str, rules: GroupRules = DEFAULT_RULES
) -> list[Group]:
    """All groups of a shape that the examples support.

    Args:
        examples: Stored examples.
        shape: Data shape of the method.
        rules: How candidates become groups.
        where: Name of the data, for messages.

    Raises:
        DataError: If there is none; says what the shape needs.
    """
    found = [group for example in examples for group in groups_in(example, shape, rules)]
    if not found:
        raise DataError(f"{where}: no usable group of shape {shape.value}. {needs(shape, rules)}")
    groups = [group for group in found if not is_small(group.candidates, rules.min_size)]
    if not groups:
        raise DataError(
            f"{where}: each of {len(found)} groups has an image whose shorter side is below min_size, "
            f"{rules.min_size} px. Lower min_size, or give larger images."
        )
    if num_small := len(found) - len(groups):
        logger.warning(TOO_SMALL, where, num_small, len(found), rules.min_size)
    _warn(groups, where)
    return groups


def _warn(groups: Sequence[Group], where: str) -> None:
    """Say how many groups teach nothing, or nothing about a prompt."""
    same = sum(len({c.content_hash for c in g.candidates}) < len(g.candidates) for g in groups)
    empty = sum(not group.prompt.strip() for group in groups)
    for number, what in ((same, "hold the same image twice"), (empty, "have an empty prompt")):
        if number:
            logger.warning(
                "%s: %d of %d groups %s; `penchant data check` lists them", where, number, len(groups), what
            )


_NEEDS = {
    Shape.PAIR: "A pair needs two images of one prompt with different labels; ties are left out.",
    Shape.UNARY: "A unary group needs an image with a label, or a pair with a winner.",
    Shape.RANKED: "A ranked list needs at least two images of one prompt with scores.",
}


def needs(shape: Shape, rules: GroupRules) -> str:
    """What data must hold for a group of a shape: the sentence for who has none."""
    if shape is Shape.PAIR and rules.min_gap > 0:
        return (
            f"A pair needs two images of one prompt whose scores differ by min_gap, {rules.min_gap:g}, or "
            "more. Lower min_gap."
        )
    return _NEEDS[shape]


def groups_in(example: Example, shape: Shape, rules: GroupRules) -> Iterator[Group]:
    """The groups of one example; none for a tie or where nobody has judged."""
    if shape is Shape.PAIR:
        for number, pair in enumerate(as_pairs(example, rules.pairs, min_gap=rules.min_gap)):
            yield Group(id=f"{example.id}/{number}", prompt=example.prompt, candidates=pair)
    elif shape is Shape.UNARY:
        for number, (candidate, label) in enumerate(as_unary(example, rules.labels)):
            yield Group(
                id=f"{example.id}/{number}", prompt=example.prompt, candidates=[candidate], score=[label]
            )
    elif len(example.candidates) > 1 and is_ranked(example):
        candidates, score = as_ranked(example, top_k=rules.top_k)
        if len(set(score)) > 1:
            yield Group(id=example.id, prompt=example.prompt, candidates=candidates, score=score)


@final
@dataclass(frozen=True, slots=True)
class View:
    """One variant of an image, as it is shown to the encoders.

    Attributes:
        window: What was cut out of the resized image, not mirrored yet.
        mirrored: Whether it is shown mirrored.
        framing: How it was cut.
    """

    window: Image
    mirrored: bool
    framing: Framing

    def pixels(self) -> Float[Tensor, "1 3 H W"]:
        """The window in [-1, 1]."""
        return prepare([self.window], size=self.framing.size, flip=self.mirrored)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How the images of a group become tensors.

    Attributes:
        sizes: Heights and widths in pixels; a group takes the one whose ratio is nearest to its winner's.
        crops: Windows of each image, evenly spaced along the side that stands out; 1 is the middle.
        flip: Whether there is a mirrored copy of each window.
    """

    sizes: Sequence[Size]
    crops: int = 1
    flip: bool = False

    def variants(self) -> list[tuple[float, bool]]:
        """Place of each window, as a share of the room there is, and whether it is mirrored."""
        mirrored = (False, True) if self.flip else (False,)
        return [((number + 0.5) / self.crops, flip) for number in range(self.crops) for flip in mirrored]

    def size_of(self, group: Group) -> Size:
        """Height and width of all images of a group."""
        if len(self.sizes) == 1:
            return self.sizes[0]
        return nearest(dimensions(group.candidates[0]), self.sizes)

    def views(self, candidate: Candidate, size: Size) -> list[View]:
        """Every variant of an image, in the order of `variants()`; it is decoded once.

        Raises:
            DataError: It cannot be read; names its row.
        """
        image = decode_candidate(candidate)
        windows = {place: cut(image, size, (place, place)) for place, _ in self.variants()}
        return [
            View(windows[place], flip, framing(image, size=size, crop=(place, place), flip=flip))
            for place, flip in self.variants()
        ]


Views = Callable[[Candidate, Size], Sequence[View]]
"""Gives every variant of an image at a size, as `Preparation.views`."""


def encode(
    groups: Sequence[Group],
    family: Encoders,
    preparation: Preparation,
    *,
    images: Rows | None = None,
    prompts: Rows | None = None,
    views: Views | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> EncodedExamples:
    """Run every distinct image and prompt of the groups through the encoders.

    Args:
        groups: What to encode; lists may differ in length and are padded with their first image.
        family: The loaded model.
        preparation: How images become tensors.
        images: Where encoded images are kept; in memory if None.
        prompts: Where encoded prompts are kept; in memory if None.
        views: Gives the variants of an image; None decodes and cuts it here.
        batch_size: Images that go through the VAE at once.
        progress: Called with the number of images done, those that were there before included.

    Raises:
        DataError: An image cannot be read; names its row.
    """
    latents = encode_images(
        groups,
        family,
        preparation,
        images or InMemory(),
        views=views,
        batch_size=batch_size,
        progress=progress,
    )
    return joined(groups, latents, encode_texts(groups, family, prompts or InMemory()))


def joined(
    groups: Sequence[Group], images: tuple[Table, Int[Tensor, "N F K"]], prompts: tuple[Table, list[int]]
) -> EncodedExamples:
    """The groups with what `encode_images` and `encode_texts` gave for them."""
    longest = max(len(group.candidates) for group in groups)
    valid = torch.zeros((len(groups), longest), dtype=torch.bool)
    score = torch.zeros((len(groups), longest))
    for number, group in enumerate(groups):
        valid[number, : len(group.candidates)] = True
        if group.score is not None:
            score[number, : len(group.candidates)] = torch.tensor(group.score, dtype=torch.float32)
    return EncodedExamples(
        ids=tuple(group.id for group in groups),
        contents=tuple(_content(group) for group in groups),
        latents=images[0],
        image=images[1],
        conditions=prompts[0],
        prompt=prompts[1],
        score=None if groups[0].score is None else score,
        valid=None if valid.all() else valid,
    )


def _content(group: Group) -> str:
    """Names the images of a group in their order."""
    hashes = "\n".join(candidate.content_hash for candidate in group.candidates)
    return hashlib.sha256(hashes.encode()).hexdigest()


def encode_prompts(prompts: Sequence[str], family: Encoders) -> Condition:
    """Condition of each prompt; each is encoded once."""
    pieces = [family.encode_prompts(piece) for piece in _pieces(prompts, _PROMPTS_AT_ONCE)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def sampling_conditions(prompts: Sequence[str], family: DiffusionFamily) -> Condition:
    """Condition of each prompt for an uncropped image of the model's own size, as the pipeline samples it."""
    whole = Framing(original=(family.size, family.size), crop=(0, 0), size=(family.size, family.size))
    return {**encode_prompts(prompts, family), **family.image_conditions([whole] * len(prompts))}


def encode_texts(groups: Sequence[Group], family: Encoders, rows: Rows) -> tuple[Table, list[int]]:
    """Condition of every distinct prompt, the empty one first, and the row of each group's prompt."""
    prompts = list(dict.fromkeys(["", *(group.prompt for group in groups)]))
    keys = {prompt: hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts}
    missing = set(rows.missing(keys.values()))
    rows.spot_check(lambda key: family.encode_prompts([prompt for prompt in prompts if keys[prompt] == key]))
    for piece in _pieces([prompt for prompt in prompts if keys[prompt] in missing], _PROMPTS_AT_ONCE):
        condition = {name: value.to(rows.dtype) for name, value in family.encode_prompts(piece).items()}
        rows.add([keys[prompt] for prompt in piece], condition)
    number_of = {prompt: number for number, prompt in enumerate(prompts)}
    return rows.table(list(keys.values())), [number_of[group.prompt] for group in groups]


def encode_images(
    groups: Sequence[Group],
    family: Encoders,
    preparation: Preparation,
    rows: Rows,
    *,
    views: Views | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Table, Int[Tensor, "N F K"]]:
    """Latent posterior of every distinct image, and the row of each candidate in each variant.

    An image that groups of several buckets share is there once for each bucket.
    """
    variants, views = preparation.variants(), views or preparation.views
    pictures: dict[tuple[Size, str], Candidate] = {}
    members: list[list[tuple[Size, str]]] = []
    for group in groups:
        size = preparation.size_of(group)
        members.append([(size, candidate.content_hash) for candidate in group.candidates])
        pictures.update(zip(members[-1], group.candidates, strict=True))
    keys = {name: [_key(name, variant) for variant in variants] for name in pictures}
    missing = set(rows.missing(key for found in keys.values() for key in found))

    def again(key: str) -> Condition:
        name = next(name for name, found in keys.items() if key in found)
        return _encoded([views(pictures[name], name[0])[keys[name].index(key)]], family)

    rows.spot_check(again)
    wanted = [name for name, found in keys.items() if not missing.isdisjoint(found)]
    done = len(pictures) - len(wanted)
    progress(done)
    for size in preparation.sizes:
        for piece in _pieces([name for name in wanted if name[0] == size], batch_size):
            shown = [views(pictures[name], size) for name in piece]
            for number in range(len(variants)):
                at = [row for row, name in enumerate(piece) if keys[name][number] in missing]
                if at:
                    encoded = _encoded([shown[row][number] for row in at], family)
                    kept = {name: encoded[name].to(rows.dtype) for name in ("mean", "deviation")}
                    rows.add([keys[piece[row]][number] for row in at], {**encoded, **kept})
            done += len(piece)
            progress(done)
    longest = max(len(found) for found in members)
    row_of = {name: number * len(variants) for number, name in enumerate(keys)}
    first = [[row_of[name] for name in [*found, *[found[0]] * (longest - len(found))]] for found in members]
    image = torch.tensor(first)[:, None] + torch.arange(len(variants))[:, None]
    return rows.table([key for found in keys.values() for key in found]), image


def _encoded(views: Sequence[View], family: Encoders) -> Condition:
    """Mean and deviation of the latents of images of one bucket, and what the model is told of them."""
    mean, deviation = family.encode_images(torch.cat([view.pixels() for view in views]))
    told = family.image_conditions([view.framing for view in views])
    return {"mean": mean, "deviation": deviation, **told}


def _key(name: tuple[Size, str], variant: tuple[float, bool]) -> str:
    """Name of one variant of an image: content, size, place of the window, mirrored or not."""
    (height, width), content = name
    place, flip = variant
    return f"{content} {height}x{width} {place:.4f}{' mirrored' if flip else ''}"


def _pieces(items: Sequence[T], at_once: int) -> Iterator[Sequence[T]]:
    return (items[start : start + at_once] for start in range(0, len(items), at_once))
