"""What a step needs of streamed data before the encoders: its groups, their images decoded and cut.

Like the batch, it is a pure function of the step. No network takes part, so that a thread may read while
another one trains.

Axes: B groups, L lanes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from penchant.data.buckets import Size
from penchant.data.images import is_small
from penchant.data.rows import Candidate, Example, GroupRules
from penchant.data.stream import Stream
from penchant.errors import DataError
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.encode import Group, Preparation, View, groups_in, needs

LANES = 8
"""Lanes at most; their number divides the batch, whatever the number of processes."""

Entry = Group | DataError

Images = dict[tuple[Size, str], Sequence[View]]
"""Every variant of an image, by size and content."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """This process's share of a step.

    Attributes:
        groups: The groups, in the order of their places in the batch.
        images: Their images.
        num_broken: Places that got another group, since their own cannot be read.
        broken: What was wrong with the first one of these; None without any.
        num_small: Places that got another group, since an image of their own is too small.
    """

    groups: Sequence[Group]
    images: Images
    num_broken: int
    broken: DataError | None
    num_small: int

    def views(self, candidate: Candidate, size: Size) -> Sequence[View]:
        """Every variant of an image of the groups."""
        return self.images[size, candidate.content_hash]


@final
class Reader:
    """Reads the rows of each step: each row once an epoch, in a keyed order.

    Arguments and errors are those of `StreamSource`.
    """

    def __init__(
        self,
        stream: Stream,
        shape: Shape,
        rules: GroupRules,
        preparation: Preparation,
        *,
        batch_size: int,
        shuffle_buffer: int,
        seed: int,
        process: int,
        num_processes: int,
    ) -> None:
        self.num_lanes = math.gcd(batch_size, LANES)
        self.steps_per_epoch = len(stream) // self.num_lanes // (batch_size // self.num_lanes)
        if not self.steps_per_epoch:
            raise DataError(
                f"training.batch_size: {stream.path} has {len(stream)} rows, fewer than one batch of "
                f"{batch_size}. Give more data or a smaller batch_size."
            )
        self.stream, self.shape, self.rules, self.preparation = stream, shape, rules, preparation
        self.seed, self.batch_size = seed, batch_size
        self.places = range(process, batch_size, num_processes)
        self.window = -(-shuffle_buffer // self.num_lanes)
        self._windows: dict[int, tuple[tuple[int, int], list[Entry]]] = {}

    def __call__(self, step: int) -> Reading:
        """The groups of optimizer step `step`, from 0.

        Raises:
            DataError: No row of a whole window can be read, or none is large enough.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        draws = Randomness(run=self.seed, epoch=epoch)
        first = position * (self.batch_size // self.num_lanes)
        groups: list[Group] = []
        images: Images = {}
        broken: list[DataError] = []
        num_small = 0
        for place in self.places:
            lane, at = place % self.num_lanes, first + place // self.num_lanes
            group, error, small = self._usable(self._entries_at(draws, lane, at), images)
            groups.append(group)
            broken += [] if error is None else [error]
            num_small += small
        return Reading(
            groups=groups,
            images=images,
            num_broken=len(broken),
            broken=broken[0] if broken else None,
            num_small=num_small,
        )

    def _usable(self, entries: Iterator[Entry], images: Images) -> tuple[Group, DataError | None, bool]:
        """The first group of a place that can be read and is large enough, and what came before it.

        That is what is wrong with the first broken entry, if any, and whether any was too small. The images
        of the group are added to those that the step has already.
        """
        broken: DataError | None = None
        small = False
        for entry in entries:
            try:
                if isinstance(entry, DataError):
                    raise entry
                if is_small(entry.candidates, self.rules.min_size):
                    small = True
                    continue
                size = self.preparation.size_of(entry)
                for candidate in entry.candidates:
                    if (name := (size, candidate.content_hash)) not in images:
                        images[name] = self.preparation.views(candidate, size)
                return entry, broken, small
            except DataError as error:
                broken = broken or error
        if broken is None:
            raise DataError(
                f"{self.stream.path}: each group of a whole window has an image whose shorter side is below "
                f"min_size, {self.rules.min_size} px. Lower min_size, or raise shuffle_buffer."
            )
        raise DataError(f"{self.stream.path}: no row of a whole window can be read; {broken}")

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
            f"Are all ties, or of another split? {needs(self.shape, self.rules)}"
        )

    def _entries_of(self, row: Example | DataError) -> Iterator[Entry]:
        if isinstance(row, DataError):
            yield row
            return
        try:
            yield from groups_in(row, self.shape, self.rules)
        except DataError as error:  # an image that is a file may be gone
            yield error
