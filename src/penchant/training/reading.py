"""What a step needs of streamed data before the encoders: its groups, their images decoded and cut.

Like the batch, it is a pure function of the step. No network takes part, so that a thread may read while
another one trains.

Axes: B groups, L lanes.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from penchant.data.buckets import Size
from penchant.data.images import is_small
from penchant.data.rows import Candidate, Example, GroupRules
from penchant.data.stream import Piece, Stream
from penchant.errors import DataError
from penchant.randomness import Randomness
from penchant.shapes import Shape
from penchant.training.encode import Group, Preparation, View, groups_in, needs

logger = logging.getLogger(__name__)

LANES = 8
"""Lanes at most; their number divides the batch, whatever the number of processes."""

FEW = 4096
"""So many rows without a usable group are passed over in any stream, if none of them is broken."""

Entry = Group | DataError

Window = tuple[int, int, int]
"""Epoch, lane and number in the lane of a window."""

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
@dataclass(frozen=True, slots=True)
class Found:
    """What a window, or several, have for a place.

    Attributes:
        group: The first group that can be read and is large enough; None if there is none.
        broken: What is wrong with the first entry before it that cannot be read; None without any.
        small: Whether an entry before it was too small.
    """

    group: Group | None
    broken: DataError | None
    small: bool


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
        max_broken: float,
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
        self._most_broken = max(shuffle_buffer, int(max_broken * len(stream)))
        self._most_unfit = max(shuffle_buffer, len(stream) // self.num_lanes, FEW)
        self._windows: dict[int, tuple[Window, list[Entry]]] = {}
        self._barren: dict[Window, Found] = {}

    def __call__(self, step: int) -> Reading:
        """The groups of optimizer step `step`, from 0.

        Raises:
            DataError: Whole windows have no group that can be read and is large enough: of more rows than may
                be broken, or, where none is broken, of more than `FEW` and than a lane has.
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
            group, error, small = self._usable(draws, lane, at, images)
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

    def _usable(
        self, draws: Randomness, lane: int, place: int, images: Images
    ) -> tuple[Group, DataError | None, bool]:
        """The first group for a place that can be read and is large enough, and what came before it.

        That is what is wrong with the first broken entry, if any, and whether any was too small. The images
        of the group are added to those that the step has already.
        """
        number, offset = self.stream.lanes(draws, self.num_lanes, self.window)[lane].cuts(place)
        broken: DataError | None = None
        small = False
        for window in self._windows_from(draws, lane, number):
            found = self._barren.get(window) or self._found(
                self._entries(draws, lane, window), offset, images
            )
            broken, small = broken or found.broken, small or found.small
            if found.group is not None:
                return found.group, broken, small
            if window not in self._barren:
                self._remember(window, found)
                self._require_hope(draws)
        raise DataError(f"{self.stream.path}: {self._why_none(broken, small, len(self.stream))}")

    def _windows_from(self, draws: Randomness, lane: int, number: int) -> Iterator[Window]:
        """A window, then those that stand in for it: the others of its lane, then those of other lanes."""
        lanes = self.stream.lanes(draws, self.num_lanes, self.window)
        for other in (*range(lane, self.num_lanes), *range(lane)):
            count = len(lanes[other].windows)
            for shift in range(count):
                yield draws.epoch, other, (number + shift) % count

    def _found(self, entries: Sequence[Entry], offset: int, images: Images) -> Found:
        """What a window has for a place: the entry at an offset, else another, half a window away."""
        broken: DataError | None = None
        small = False
        size = len(entries)
        others = ((size // 2 + step) % size for step in range(size))
        for shift in (*range(min(size, 1)), *(other for other in others if other)):
            entry = entries[(offset + shift) % size]
            try:
                if isinstance(entry, DataError):
                    raise entry
                if is_small(entry.candidates, self.rules.min_size):
                    small = True
                    continue
                bucket = self.preparation.size_of(entry)
                for candidate in entry.candidates:
                    if (name := (bucket, candidate.content_hash)) not in images:
                        images[name] = self.preparation.views(candidate, bucket)
                return Found(entry, broken, small)
            except DataError as error:
                broken = broken or error
        return Found(None, broken, small)

    def _remember(self, window: Window, found: Found) -> None:
        """Keep that a window has no group for any place, so that it is read once; of one epoch alone."""
        if (found.broken or found.small) and not self._barren:
            logger.warning(
                "%s: no row of a whole window can be used; others take their places. One of them: %s",
                self.stream.path,
                found.broken or f"an image is below min_size, {self.rules.min_size} px.",
            )
        self._barren = {known: why for known, why in self._barren.items() if known[0] == window[0]}
        said = None if found.broken is None else DataError(str(found.broken))  # the first one holds the rows
        self._barren[window] = replace(found, broken=said)

    def _require_hope(self, draws: Randomness) -> None:
        """Give up where too many rows in a row have nothing, before all of the data is read for one group."""
        for is_broken, most in ((True, self._most_broken), (False, self._most_unfit)):
            barren = {
                w: found for w, found in self._barren.items() if (found.broken is not None) is is_broken
            }
            num_rows = sum(piece.stop - piece.start for w in barren for piece in self._pieces(draws, w))
            if num_rows > most:
                broken = next((found.broken for found in barren.values()), None)
                small = any(found.small for found in barren.values())
                raise DataError(f"{self.stream.path}: {self._why_none(broken, small, num_rows)}")

    def _why_none(self, broken: DataError | None, small: bool, num_rows: int) -> str:
        if broken is not None:
            return f"none of {num_rows} rows can be read; {broken}"
        if small:
            return (
                f"each group of {num_rows} rows has an image whose shorter side is below min_size, "
                f"{self.rules.min_size} px. Lower min_size, or give larger images."
            )
        return (
            f"no usable group of shape {self.shape.value} in {num_rows} rows. "
            f"Are all ties, or of another split? {needs(self.shape, self.rules)}"
        )

    def _entries(self, draws: Randomness, lane: int, window: Window) -> list[Entry]:
        """The shuffled entries of a window for a lane, which keeps those that it was given last."""
        if lane not in self._windows or self._windows[lane][0] != window:
            self._windows.pop(lane, None)  # before the next one is read, so that memory holds one
            self._windows[lane] = (window, self._read(draws, window))
        return self._windows[lane][1]

    def _read(self, draws: Randomness, window: Window) -> list[Entry]:
        _, lane, number = window
        rows = self.stream.read(self._pieces(draws, window))
        entries = [entry for row in rows for entry in self._entries_of(row)]
        return [entries[at] for at in draws.permutation(len(entries), f"window {lane}/{number}")]

    def _pieces(self, draws: Randomness, window: Window) -> Sequence[Piece]:
        _, lane, number = window
        return self.stream.lanes(draws, self.num_lanes, self.window)[lane].windows[number]

    def _entries_of(self, row: Example | DataError) -> Iterator[Entry]:
        if isinstance(row, DataError):
            yield row
            return
        try:
            yield from groups_in(row, self.shape, self.rules)
        except DataError as error:  # an image that is a file may be gone
            yield error
