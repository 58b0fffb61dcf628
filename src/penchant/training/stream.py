"""Batches of data that does not fit into memory: read, decoded and encoded for the step that needs them.

As with stored examples, the batch of a step is a pure function of the step, so a run resumes in mid-stream by
asking for its next step; nothing of what lies before is read.

Axes: B groups, L lanes.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import torch
from torch import Tensor

from penchant.data.images import decode_candidate
from penchant.data.rows import Example, GroupRules
from penchant.data.stream import Stream
from penchant.errors import DataError, TrainingStopped
from penchant.protocols import Condition, Framing
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.distributed import said_by_any
from penchant.training.encode import Encoders, Group, Preparation, encode, groups_in
from penchant.training.loop import Progress, Record
from penchant.training.source import EncodedExamples, GlobalBatch

logger = logging.getLogger(__name__)

LANES = 8
"""Lanes at most; their number divides the batch, whatever the number of processes."""

PROMPT_BYTES, PROMPTS = 2**28, 2048
"""Prompt embeddings that are kept: bytes and number at most."""

BROKEN = "data/broken"

Entry = Group | DataError


@final
class StreamSource:
    """Batches of streamed examples: each row once an epoch, in a keyed order.

    A window of R rows fills R places of the epoch with its groups, in a keyed order of their own. Has it
    fewer groups than rows (ties, rows of another split), they come again from the start; has it more, the
    rest waits for another epoch. A place whose group is broken takes another one, half a window away.

    Args:
        stream: The rows.
        shape: Data shape of the method.
        rules: How candidates become groups.
        family: The loaded model, encoders included.
        preparation: How images become tensors; with several sizes, in one process alone.
        batch_size: Groups per optimizer step, over all processes and pieces.
        micro_batch_size: Groups that go through the network at once, per process.
        shuffle_buffer: Rows among which an epoch is shuffled, over all lanes.
        prompt_dropout: Chance that a group sees the empty prompt.
        seed: Seed of the run.
        process: Number of this process.
        num_processes: How many share the batch.

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
        prompt_dropout: float,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.num_lanes = math.gcd(batch_size, LANES)
        self.steps_per_epoch = len(stream) // self.num_lanes // (batch_size // self.num_lanes)
        if not self.steps_per_epoch:
            raise DataError(
                f"training.batch_size: {stream.path} has {len(stream)} rows, fewer than one batch of "
                f"{batch_size}. Give more data or a smaller batch_size."
            )
        self.stream, self.shape, self.rules = stream, shape, rules
        self.encoders, self.preparation = RecentPrompts(family), preparation
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.window = -(-shuffle_buffer // self.num_lanes)
        self.prompt_dropout, self.seed = prompt_dropout, seed
        self.process, self.num_processes = process, num_processes
        self.first_broken: DataError | None = None
        self._windows: dict[int, tuple[tuple[int, int], list[Entry]]] = {}

    def __call__(self, step: int) -> GlobalBatch:
        """The batch of optimizer step `step`, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        draws = Randomness(run=self.seed, epoch=epoch)
        places = range(self.process, self.batch_size, self.num_processes)
        rows = [
            self._entries_at(
                draws, place % self.num_lanes, position * (self.batch_size // self.num_lanes) + at
            )
            for place, at in ((place, place // self.num_lanes) for place in places)
        ]
        examples, num_broken = self._encoded(rows)
        pieces = examples.pieces(range(len(rows)), self.micro_batch_size)
        return GlobalBatch(
            micro=tuple(examples.batch(piece, draws, prompt_dropout=self.prompt_dropout) for piece in pieces),
            draws=draws,
            epoch=epoch,
            size=self.batch_size,
            places=tuple(tuple(places[row] for row in piece) for piece in pieces),
            counted={BROKEN: num_broken},
        )

    def _entries_at(self, draws: Randomness, lane: int, place: int) -> Iterator[Entry]:
        """The entry of a place, then those that may stand in for it."""
        number, offset = self.stream.lanes(draws, self.num_lanes, self.window)[lane].cuts(place)
        entries = self._window(draws, lane, number)
        half = len(entries) // 2
        yield entries[offset % len(entries)]
        for step in range(len(entries) - 1):
            yield entries[(offset + half + step) % len(entries)]

    def _window(self, draws: Randomness, lane: int, number: int) -> list[Entry]:
        """The shuffled entries of a window; of the next one that has any if it has none."""
        key = (draws.epoch, number)
        if lane not in self._windows or self._windows[lane][0] != key:
            self._windows.pop(lane, None)  # before the next one is read, so that memory holds one
            self._windows[lane] = (key, self._read(draws, lane, number))
        return self._windows[lane][1]

    def _read(self, draws: Randomness, lane: int, number: int) -> list[Entry]:
        windows = self.stream.lanes(draws, self.num_lanes, self.window)[lane].windows
        for shift in range(len(windows)):
            chosen = (number + shift) % len(windows)
            entries = [entry for row in self.stream.read(windows[chosen]) for entry in self._entries_of(row)]
            if entries:
                order = draws.permutation(len(entries), f"window {lane}/{chosen}")
                return [entries[at] for at in order]
        raise DataError(
            f"{self.stream.path}: no usable group of shape {self.shape.value} in {len(self.stream)} rows. "
            "Are all ties, or of another split?"
        )

    def _entries_of(self, row: Example | DataError) -> Iterator[Entry]:
        if isinstance(row, DataError):
            yield row
            return
        try:
            yield from groups_in(row, self.shape, self.rules)
        except DataError as error:  # an image that is a file may be gone
            yield error

    def _encoded(self, rows: Sequence[Iterator[Entry]]) -> tuple[EncodedExamples, int]:
        """For each place the first group that can be read, and at how many that was not their own."""
        groups, broken = [], set()
        for number, row in enumerate(rows):
            group, passed = self._next(row)
            groups.append(group)
            broken |= {number} if passed else set()
        while True:
            try:
                return encode(groups, self.encoders, self.preparation), len(broken)
            except DataError as error:  # rare, so that images are decoded twice only then
                damaged = {number for number, group in enumerate(groups) if self._is_damaged(group)}
                if not damaged:
                    raise error
            broken |= damaged
            for number in damaged:
                groups[number], _ = self._next(rows[number])

    def _next(self, row: Iterator[Entry]) -> tuple[Group, bool]:
        """The next group of a place, and whether a broken entry came before it."""
        passed = False
        for entry in row:
            if isinstance(entry, Group):
                return entry, passed
            self._note(entry)
            passed = True
        raise DataError(f"{self.stream.path}: no row of a whole window can be read; {self.first_broken}")

    def _is_damaged(self, group: Group) -> bool:
        try:
            for candidate in group.candidates:
                decode_candidate(candidate)
        except DataError as error:
            self._note(error)
            return True
        return False

    def _note(self, error: DataError) -> None:
        if self.first_broken is None:
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
    """Counts the rows that could not be read, and stops the run when there are too many.

    Counted is from the start of this process; a resumed run counts anew.

    Attributes:
        source: Where the rows come from.
        share: Share of the rows that may be broken, in [0, 1].
        at_least: Rows over which the share is taken at least, so that one broken row at the start is no
            great share.
        num_rows: Rows so far.
        num_broken: Broken ones among them.
    """

    source: StreamSource
    share: float
    at_least: int
    num_rows: int = 0
    num_broken: int = 0

    def before_update(self, record: Record) -> None:
        """Count, and stop when the share is exceeded."""
        self.num_broken += int(record.metrics[BROKEN])
        self.num_rows += self.source.batch_size
        if self.num_broken > self.share * max(self.num_rows, self.at_least):
            raise TrainingStopped(
                f"data.max_broken: {self._sentence()}, more than a share of {self.share:g}. One of them: "
                f"{self._one()} Repair or remove them, or raise max_broken."
            )

    def on_step(self, progress: Progress, record: Record) -> None:
        """Nothing to do."""

    def on_end(self, progress: Progress) -> None:
        """Say how many there were."""
        if self.num_broken:
            logger.warning(
                "%s: %s; others took their places. One of them: %s",
                self.source.stream.path,
                self._sentence(),
                self._one(),
            )

    def _sentence(self) -> str:
        return f"{self.num_broken} of {self.num_rows} rows could not be read"

    def _one(self) -> str | None:
        """What is wrong with one of them, the same on every process, whichever has met it."""
        first = self.source.first_broken
        return said_by_any(None if first is None else str(first))


def first_groups(stream: Stream, shape: Shape, rules: GroupRules, limit: int) -> list[Group]:
    """The first groups of a stream in the order of its files; broken rows are passed over.

    Raises:
        DataError: There is none.
    """
    groups = (group for row in stream.in_file_order() for group in _readable(row, shape, rules))
    found = list(islice(groups, limit))
    if not found:
        raise DataError(f"{stream.path}: no usable group of shape {shape.value} in split {stream.split!r}.")
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
