"""Charts as small hand-written SVG: curves over steps, and intervals that stretch with the page.

Colours are from the palette of Okabe and Ito, which colour-blind readers can tell apart; lines differ in
their dashes as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup, escape

from penchant.reports.contents import Points

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499")
DASHES = ("none", "6 3", "2 2", "8 3 2 3")
MAX_POINTS = 240
"""Points drawn per line; longer curves are thinned evenly."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart: training values and held-out points of the same quantity."""

    label: str
    train: Points
    heldout: Points = ()


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """Linear map from values to places on the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value; values outside are drawn at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def smoothed(points: Points, *, window: int) -> Points:
    """Trailing exponential mean with the weight of about `window` points, unbiased at the start."""
    decay = 1 - 2 / (window + 1)
    total, weight, result = 0.0, 0.0, []
    for step, value in points:
        total, weight = decay * total + value, decay * weight + 1
        result.append((step, total / weight))
    return tuple(result)


def ticks(low: float, high: float, *, count: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them, steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    reference: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Curves over steps: faint training values, their smoothed line, held-out values as points.

    Args:
        curves: At most four, with at least one point in all.
        title: What is shown, for readers who do not see the drawing.
        reference: Value of a dashed horizontal line.
        limits: Ends of the vertical axis; from the values if None, without the outermost half percent of the
            raw training values, which are then drawn at the edge.
    """
    steps = [step for curve in curves for step, _ in (*curve.train, *curve.heldout)]
    first, last = min(steps), max(steps)
    x = Scale(0 if first < 0.1 * last else first, max(last, first + 1), LEFT, WIDTH - RIGHT)
    with_raw = len(curves) <= 2
    low, high = limits or _value_range(curves, reference, with_raw=with_raw)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x, y)]
    if reference is not None:
        parts.append(f'<path class="ref" d="M{LEFT} {y(reference):.1f}H{WIDTH - RIGHT}"/>')
    for number, curve in enumerate(curves):
        parts += _curve(curve, number, x, y, with_raw=with_raw)
    label = f"{title}. {' '.join(_in_words(curve) for curve in curves)}"
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def interval_chart(
    value: float,
    low: float,
    high: float,
    *,
    ends: tuple[float, float],
    middle: float,
    label: str,
    band: tuple[float, float] | None = None,
    flagged: bool = False,
) -> Markup:
    """A point with its interval on one line as wide as its place on the page.

    Args:
        value: Place of the point.
        low: Lower end of the interval.
        high: Upper end of the interval.
        ends: Values at the left and the right edge.
        middle: Value of the dashed upright line, such as one half.
        label: The same in words.
        band: Range that is allowed, shaded.
        flagged: Draw in the warning colour and as a diamond.
    """
    x = Scale(ends[0], ends[1], 2.0, 98.0)
    colour = "#b3261e" if flagged else COLOURS[0]
    parts = []
    if band is not None:
        start, end = x(band[0]), x(band[1])
        parts.append(f'<rect class="band" x="{start:.2f}%" y="2" width="{end - start:.2f}%" height="20"/>')
    parts.append('<line class="axis" x1="2%" x2="98%" y1="12" y2="12"/>')
    parts.append(f'<line class="ref" x1="{x(middle):.2f}%" x2="{x(middle):.2f}%" y1="2" y2="22"/>')
    parts.append(
        f'<line x1="{x(low):.2f}%" x2="{x(high):.2f}%" y1="12" y2="12" stroke="{colour}" stroke-width="4" '
        'stroke-linecap="round" stroke-opacity=".45"/>'
    )
    if flagged:
        diamond = f'<path d="M0-6 6 0 0 6-6 0z" fill="{colour}"/>'
        parts.append(f'<svg x="{x(value):.2f}%" y="12" overflow="visible">{diamond}</svg>')
    else:
        parts.append(f'<circle cx="{x(value):.2f}%" cy="12" r="5" fill="{colour}"/>')
    return Markup(f'<svg class="interval" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def swatch(number: int) -> Markup:
    """A short piece of line `number` of a chart, for its legend."""
    return Markup(
        f'<svg class="swatch" aria-hidden="true" viewBox="0 0 26 8"><path d="M1 4H25" {_stroke(number)} '
        'stroke-width="2.5"/></svg>'
    )


def _value_range(curves: Sequence[Curve], reference: float | None, *, with_raw: bool) -> tuple[float, float]:
    raw = sorted(value for curve in curves for _, value in _shown(curve, with_raw=with_raw))
    cut = len(raw) // 200
    values = [*raw[cut : len(raw) - cut], *(value for curve in curves for _, value in curve.heldout)]
    if reference is not None:
        values.append(reference)
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(high), 1e-3) * 0.1
    return low - room, high + room


def _shown(curve: Curve, *, with_raw: bool) -> Points:
    return curve.train if with_raw else smoothed(curve.train, window=_window(curve))


def _window(curve: Curve) -> int:
    return max(1, len(curve.train) // 15)


def _grid(x: Scale, y: Scale) -> list[str]:
    parts = []
    values = ticks(y.low, y.high)
    for value in values:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        place = f'x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {place}>{_number(value, values)}</text>")
    steps = [step for step in ticks(x.low, x.high) if step == int(step)]
    for step in steps:
        anchor = "end" if x(step) > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{int(step)}</text>')
    return parts


def _number(value: float, among: Sequence[float]) -> str:
    largest = max(abs(other) for other in among)
    if largest >= 1e5 or 0 < largest < 1e-3:
        return f"{value:.0e}" if value else "0"
    step = abs(among[1] - among[0]) if len(among) > 1 else largest
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0}f}"


def _curve(curve: Curve, number: int, x: Scale, y: Scale, *, with_raw: bool) -> list[str]:
    stroke, parts = _stroke(number), []
    if curve.train:
        window = _window(curve)
        within = tuple((step, min(max(value, y.low), y.high)) for step, value in curve.train)
        line = _path(smoothed(within, window=window), x, y)  # a single spike must not carry the line away
        if window > 1 and with_raw:
            parts.append(f'<path d="{_path(curve.train, x, y)}" stroke="{COLOURS[number]}" class="raw"/>')
        parts.append(f'<path d="{line}" {stroke} class="line"/>')
    dots = "".join(
        f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="3.2"/>' for step, value in _thinned(curve.heldout)
    )
    if dots:
        parts.append(f'<g class="dots" fill="{COLOURS[number]}">{dots}</g>')
    return parts


def _stroke(number: int) -> str:
    return f'stroke="{COLOURS[number]}" stroke-dasharray="{DASHES[number]}" fill="none"'


def _path(points: Points, x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in _thinned(points))


def _thinned(points: Points) -> Points:
    if len(points) <= MAX_POINTS:
        return points
    places = (round(i * (len(points) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS))
    return tuple(points[place] for place in places)


def _in_words(curve: Curve) -> str:
    words = [curve.label]
    for kind, points in (("training", curve.train), ("held-out", curve.heldout)):
        if points:
            words.append(f"{kind} from {points[0][1]:.4g} to {points[-1][1]:.4g}")
    return ", ".join(words) + "."
