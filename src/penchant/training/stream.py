"""Batches of data that does not fit into memory: read and decoded in advance, encoded when a step needs them.

As with stored examples, the batch of a step is a pure function of the step, so a run resumes in mid-stream by
asking for its next step; nothing of what lies before is read.

Axes: B groups, L lanes.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from penchant.data.images import decode_candidate, is_small
from penchant.data.rows import Example, GroupRules
from penchant.data.stream import Stream
from penchant.errors import DataError, TrainingStopped
from penchant.protocols import Condition, Framing
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.ahead import AHEAD, Ahead
from penchant.training.distributed import said_by_any
from penchant.training.encode import TOO_SMALL, Encoders, Group, Preparation, encode, groups_in, needs
from penchant.training.loop import Record
from penchant.training.reading import Reader
from penchant.training.source import GlobalBatch

logger = logging.getLogger(__name__)

PROMPT_BYTES, PROMPTS = 2**28, 2048
"""Prompt embeddings that are kept: bytes and number at most."""

BROKEN, SMALL = "data/broken", "data/small"


@final
class StreamSource:
    """Batches of streamed examples: each row once an epoch, in a keyed order.

    A window of R rows fills R places of the epoch with its groups, in a keyed order of their own. If it
    has fewer groups than rows (ties, rows of another split), they repeat from the start; if it has more, the
    rest waits for another epoch. A place whose group is broken or too small takes another one, half a window
    away; where a whole window has none, the next window of the lane stands in for it, then other lanes.

    Args:
        stream: The rows.
        shape: Data shape of the method.
        rules: How candidates become groups.
        family: The loaded model, encoders included.
        preparation: How images become tensors; with several sizes, in one process alone.
        batch_size: Groups per optimizer step, over all processes and pieces.
        micro_batch_size: Groups that go through the network at once, per process.
        shuffle_buffer: Rows among which an epoch is shuffled, over all lanes.
        max_broken: Share of the rows up to which whole windows may be broken, in [0, 1].
        prompt_dropout: Chance that a group sees the empty prompt.
        seed: Seed of the run.
        process: Number of this process.
        num_processes: How many share the batch.
        ahead: Steps whose rows are read and decoded in advance, beside the current one.

    Raises:
        DataError: There are fewer rows than a batch needs.
    """

    def __init__(
        self,
        stream: Stream,
        shape: Shape,
        rules: GroupRules,
        family: Encoders,
        preparation: Preparation,
        *,
        batch_size: int,
        micro_batch_size: int,
        shuffle_buffer: int,
        max_broken: float,
        prompt_dropout: float,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
        ahead: int = AHEAD,
    ) -> None:
        self.stream, self.encoders, self.preparation = stream, RecentPrompts(family), preparation
        self.reader = Reader(
            stream,
            shape,
            rules,
            preparation,
            batch_size=batch_size,
            shuffle_buffer=shuffle_buffer,
            max_broken=max_broken,
            seed=seed,
            process=process,
            num_processes=num_processes,
        )
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.prompt_dropout, self.seed = prompt_dropout, seed
        self.first_broken: DataError | None = None
        self._read = Ahead(self.reader, ahead=ahead)

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        epoch, places = step // self.reader.steps_per_epoch, self.reader.places
        draws = Randomness(run=self.seed, epoch=epoch)
        reading = self._read(step)
        self._note(reading.broken)
        examples = encode(reading.groups, self.encoders, self.preparation, views=reading.views)
        pieces = examples.pieces(range(len(places)), self.micro_batch_size)
        return GlobalBatch(
            micro=tuple(examples.batch(piece, draws, prompt_dropout=self.prompt_dropout) for piece in pieces),
            draws=draws,
            epoch=epoch,
            size=self.batch_size,
            places=tuple(tuple(places[row] for row in piece) for piece in pieces),
            counted={BROKEN: reading.num_broken, SMALL: reading.num_small},
        )

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._read.close()

    def _note(self, error: DataError | None) -> None:
        if error is not None and self.first_broken is None:
            self.first_broken = error
            logger.warning("%s It is left out; further ones are counted.", error)


@final
class RecentPrompts:
    """The encoders of a model; the embeddings of some recent prompts are kept.

    Every prompt goes through the text encoder alone, so that its embedding does not depend on what else was
    asked for, or is still kept.
    """

    def __init__(self, family: Encoders, *, limit: int = PROMPT_BYTES) -> None:
        self._family, self._limit, self._size = family, limit, 0
        self._prompts: OrderedDict[str, Condition] = OrderedDict()

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Condition of each prompt, one row each."""
        found = [self._prompt(prompt) for prompt in prompts]
        return {name: torch.cat([condition[name] for condition in found]) for name in found[0]}

    def image_conditions(self, framings: Sequence[Framing]) -> Condition:
        """As the model's own."""
        return self._family.image_conditions(framings)

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As the model's own."""
        return self._family.encode_images(pixels)

    def _prompt(self, prompt: str) -> Condition:
        if prompt not in self._prompts:
            self._prompts[prompt] = self._family.encode_prompts([prompt])
            self._size += _bytes_of(self._prompts[prompt])
        self._prompts.move_to_end(prompt)
        condition = self._prompts[prompt]
        while len(self._prompts) > (1 if self._size > self._limit else PROMPTS):
            self._size -= _bytes_of(self._prompts.popitem(last=False)[1])
        return condition


def _bytes_of(condition: Condition) -> int:
    return sum(tensor.nbytes for tensor in condition.values())


@final
@dataclass(slots=True)
class BrokenRows:
    """Counts the rows that could not be read or are too small; too many of the former stop the run.

    Counted is from the start of this process; a resumed run counts anew.

    Attributes:
        source: Where the rows come from.
        share: Share of the rows that may be broken, in [0, 1].
        at_least: Rows over which the share is taken at least, so that one broken row at the start is no
            great share.
        num_rows: Rows so far.
        num_broken: Broken ones among them.
        num_small: Those whose images are too small.
    """

    source: StreamSource
    share: float
    at_least: int
    num_rows: int = 0
    num_broken: int = 0
    num_small: int = 0

    def guard(self, record: Record) -> None:
        """Count, and stop when the share is exceeded."""
        self.num_broken += int(record.metrics[BROKEN])
        self.num_small += int(record.metrics[SMALL])
        self.num_rows += self.source.batch_size
        if self.num_broken > self.share * max(self.num_rows, self.at_least):
            raise TrainingStopped(
                f"data.max_broken: {self._sentence()}, more than a share of {self.share:g}. One of them: "
                f"{self._one()} Repair or remove them, or raise max_broken."
            )

    def report(self) -> None:
        """Say how many there were."""
        if self.num_broken:
            logger.warning(
                "%s: %s; others took their places. One of them: %s",
                self.source.stream.path,
                self._sentence(),
                self._one(),
            )
        if self.num_small:
            limit = self.source.reader.rules.min_size
            logger.warning(TOO_SMALL, self.source.stream.path, self.num_small, self.num_rows, limit)

    def _sentence(self) -> str:
        return f"{self.num_broken} of {self.num_rows} rows could not be read"

    def _one(self) -> str | None:
        """What is wrong with one of them, the same on every process, whichever has met it."""
        first = self.source.first_broken
        return said_by_any(None if first is None else str(first))


def first_groups(stream: Stream, shape: Shape, rules: GroupRules, limit: int) -> list[Group]:
    """The first groups of a stream in the order of its files; broken and too small ones are passed over.

    Raises:
        DataError: There is none.
    """
    found: list[Group] = []
    num_small = 0
    for group in (group for row in stream.in_file_order() for group in _readable(row, shape, rules)):
        if is_small(group.candidates, rules.min_size):
            num_small += 1
            continue
        found.append(group)
        if len(found) == limit:
            break
    if num_small:
        logger.warning(TOO_SMALL, stream.path, num_small, num_small + len(found), rules.min_size)
    if not found:
        raise DataError(
            f"{stream.path}: no usable group of shape {shape.value} in split {stream.split!r}. "
            f"{needs(shape, rules)}"
        )
    return found


def _readable(row: Example, shape: Shape, rules: GroupRules) -> list[Group]:
    """The groups of a row; none if one of its images cannot be decoded."""
    try:
        for candidate in row.candidates:
            decode_candidate(candidate)
        return list(groups_in(row, shape, rules))
    except DataError as error:
        logger.warning("%s It is left out.", error)
        return []
