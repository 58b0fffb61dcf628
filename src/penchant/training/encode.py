"""Images and prompts through VAE and text encoder once: the latent and embedding cache.

Axes: N examples, U prompts, F mirrored variants, K candidates, D = C H W of a latent.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from penchant.data.images import decode_candidate, framing, prepare
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

logger = logging.getLogger(__name__)


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
    groups = [group for example in examples for group in groups_in(example, shape, rules)]
    if not groups:
        raise DataError(f"{where}: no usable group of shape {shape.value}. {_NEEDS[shape]}")
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


def encode(
    groups: Sequence[Group],
    family: Encoders,
    *,
    size: int,
    flip: bool = False,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> EncodedExamples:
    """Run every distinct image and prompt of the groups through the encoders, in float32.

    Args:
        groups: What to encode; lists may differ in length and are padded.
        family: The loaded model.
        size: Side of the images in pixels.
        flip: Also keep the mirrored images; a group then takes one of the two for all its candidates.
        batch_size: Images that go through the VAE at once.
        progress: Called with the number of images done.

    Raises:
        DataError: An image cannot be read; names its row.
    """
    unique = {c.content_hash: c for group in groups for c in group.candidates}
    mean, deviation, told = _images(list(unique.values()), family, size, flip, batch_size, progress)
    rows = dict(zip(unique, range(len(unique)), strict=True))
    longest = max(len(group.candidates) for group in groups)
    index = torch.zeros((len(groups), longest), dtype=torch.long)
    valid = torch.zeros((len(groups), longest), dtype=torch.bool)
    score = torch.zeros((len(groups), longest))
    for number, group in enumerate(groups):
        width = len(group.candidates)
        index[number, :width] = torch.tensor([rows[c.content_hash] for c in group.candidates])
        valid[number, :width] = True
        if group.score is not None:
            score[number, :width] = torch.tensor(group.score, dtype=torch.float32)
    prompts = list(dict.fromkeys(["", *(group.prompt for group in groups)]))
    number_of = {prompt: number for number, prompt in enumerate(prompts)}
    return EncodedExamples(
        ids=tuple(group.id for group in groups),
        mean=mean[index].transpose(1, 2),
        deviation=deviation[index].transpose(1, 2),
        prompt=[number_of[group.prompt] for group in groups],
        conditions=encode_prompts(prompts, family),
        image_conditions={name: table[index].transpose(1, 2) for name, table in told.items()},
        score=None if groups[0].score is None else score,
        valid=None if valid.all() else valid,
    )


def encode_prompts(prompts: Sequence[str], family: Encoders, *, batch_size: int = 64) -> Condition:
    """Condition of each prompt; each is encoded once."""
    pieces = [family.encode_prompts(prompts[i : i + batch_size]) for i in range(0, len(prompts), batch_size)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def sampling_conditions(prompts: Sequence[str], family: DiffusionFamily) -> Condition:
    """Condition of each prompt for an uncropped image of the model's own size, as the pipeline samples it."""
    whole = Framing(original=(family.size, family.size), crop=(0, 0), size=family.size)
    return {**encode_prompts(prompts, family), **family.image_conditions([whole] * len(prompts))}


def _images(
    candidates: Sequence[Candidate],
    family: Encoders,
    size: int,
    flip: bool,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> tuple[Tensor, Tensor, Condition]:
    """Mean and deviation of every candidate, [M, F, *D], and its conditions, leading axes M F."""
    means, deviations, told = [], [], []
    for start in range(0, len(candidates), batch_size):
        images = [decode_candidate(candidate) for candidate in candidates[start : start + batch_size]]
        variants, conditions = [], []
        for mirrored in (False, True) if flip else (False,):
            pixels = torch.cat([prepare([image], size=size, flip=mirrored) for image in images])
            variants.append(family.encode_images(pixels))
            framings = [framing(image, size=size, flip=mirrored) for image in images]
            conditions.append(family.image_conditions(framings))
        means.append(torch.stack([mean for mean, _ in variants], 1))
        deviations.append(torch.stack([deviation for _, deviation in variants], 1))
        told.append({name: torch.stack([c[name] for c in conditions], 1) for name in conditions[0]})
        if progress is not None:
            progress(min(start + batch_size, len(candidates)))
    if not means:
        raise DataError("data: no image to encode.")
    conditions = {name: torch.cat([piece[name] for piece in told]) for name in told[0]}
    return torch.cat(means), torch.cat(deviations), conditions
