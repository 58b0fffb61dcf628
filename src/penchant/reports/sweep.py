"""A sweep as a table for the terminal, and as a page with what every candidate draws."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from rich.table import Table

from penchant.reports import charts
from penchant.reports.contents import ImagePair, read_samples
from penchant.reports.gallery import SHEET_COLUMNS, sheet
from penchant.reports.page import render_page, write_page
from penchant.reports.summary import percent, signed
from penchant.runs.folder import RunFolder
from penchant.runs.sweep import Row, Sweep


def table(sweep: Sweep) -> Table:
    """Every candidate where it was left, the one that went to the end first."""
    shown = Table(title=f"judged by {sweep.plan.metric}")
    shown.add_column("candidate", overflow="fold", min_width=20)
    for name in ("steps", "change", "win-rate", "preferred", "caption match"):
        shown.add_column(name, justify="right")
    shown.add_column("findings", overflow="fold")
    for number, row in enumerate(_left(sweep)):
        cells = _cells(row)
        shown.add_row(
            cells.pop("candidate"), str(row.step), *cells.values(), style=None if number else "bold"
        )
    return shown


def write_sweep(sweep: Sweep, *, report: Path) -> Path:
    """Write `sweep.html` into the folder of a finished sweep, and return its path.

    Args:
        sweep: Judged up to its last stop.
        report: The page of the one that went to the end, inside the folder.

    Raises:
        RunFolderError: The page cannot be written.
        DataError: A picture cannot be read.
    """
    plan, best = sweep.plan, sweep.best
    samples = {
        row: read_samples(RunFolder(plan.folder / row.candidate))[0][:SHEET_COLUMNS] for row in _left(sweep)
    }
    pairs = samples[best]
    strips = [("base model", [pair.base for pair in pairs])]
    strips += [
        (f"{row.candidate}, step {row.step}", [pair.tuned for pair in own])
        for row, own in samples.items()
        if own and _places(own) == _places(pairs)  # a candidate that stopped itself has none
    ]
    page = render_page(
        "sweep",
        name=plan.folder.resolve().name,
        done=_done(sweep),
        best=_cells(best),
        link=quote(report.relative_to(plan.folder).as_posix()),
        prompts=[pair.prompt for pair in pairs],
        strips=[{"label": label, "sheet": sheet(paths)} for label, paths in strips if paths],
        stops=[{"step": stop, "rows": list(_rows(sweep, stop))} for stop in reversed(plan.stops)],
        metric=plan.metric,
    )
    return write_page(plan.folder / "sweep.html", page)


def _left(sweep: Sweep) -> Iterator[Row]:
    """Every candidate at the last stop that it has reached, the best first."""
    seen: set[str] = set()
    for stop in reversed(sweep.plan.stops):
        for row in sweep.at(stop):
            if row.candidate not in seen:
                yield row
            seen.add(row.candidate)


def _done(sweep: Sweep) -> str:
    """What was tried, and how."""
    *earlier, last = map(str, sweep.plan.stops)
    steps = f"steps {', '.join(earlier)} and {last}" if earlier else f"step {last}"
    return (
        f"{len(sweep.plan.candidates)} candidates trained from the same start and were judged by "
        f"{sweep.plan.metric} on the same prompts and seeds at {steps}; each time the better half went on. "
        f"{sweep.best.candidate} went to the end."
    )


def _rows(sweep: Sweep, stop: int) -> Iterator[dict[str, Any]]:
    """The lines of one stop."""
    later = {row.candidate for row in sweep.rows if row.step > stop}
    for row in sweep.at(stop):
        last = "went to the end" if stop == sweep.plan.stops[-1] else "given up"
        yield {
            **_cells(row),
            "role": "went on" if row.candidate in later else last,
            "svg": _interval(row),
        }


def _interval(row: Row) -> Markup:
    if row.win_rate is None:
        return Markup("")
    value, low, high = row.win_rate
    label = f"Win-rate {percent(value)}, interval {percent(low)} to {percent(high)}"
    return charts.interval_chart(value, low, high, ends=(0.0, 1.0), middle=0.5, label=label)


def _places(samples: tuple[ImagePair, ...]) -> list[tuple[str, int]]:
    return [(pair.prompt, pair.seed) for pair in samples]


def _cells(row: Row) -> dict[str, str]:
    """What is known of a candidate at a stop, in words."""
    if row.win_rate is None or row.change is None:
        unknown = dict.fromkeys(("change", "win_rate", "share", "captions"), "-")
        return {"candidate": row.candidate, **unknown, "findings": row.stopped}
    value, low, high = row.win_rate
    share, captions = row.preferred_share, row.caption_match
    return {
        "candidate": row.candidate,
        "change": signed(row.change, 3),
        "win_rate": f"{percent(value)} ({percent(low)} to {percent(high)})",
        "share": "-" if share is None else f"{percent(share[0])} -> {percent(share[1])}",
        "captions": "-" if captions is None else f"{captions[0]:.1f} -> {captions[1]:.1f}",
        "findings": ", ".join(row.flags) or "-",
    }
