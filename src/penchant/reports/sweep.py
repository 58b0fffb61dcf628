"""A sweep as a table for the terminal."""

from rich.table import Table

from penchant.reports.summary import percent, signed
from penchant.runs.sweep import Row, Sweep


def table(sweep: Sweep) -> Table:
    """Every candidate where it was left, the one that went to the end first."""
    shown = Table(title=f"judged by {sweep.plan.metric}")
    shown.add_column("candidate", overflow="fold")
    for name in ("steps", "change", "win-rate", "preferred", "caption match"):
        shown.add_column(name, justify="right")
    shown.add_column("findings", overflow="fold")
    seen: set[str] = set()
    for stop in reversed(sweep.plan.stops):
        for row in sweep.at(stop):
            if row.candidate not in seen:
                shown.add_row(*_cells(row), style="bold" if not seen else None)
                seen.add(row.candidate)
    return shown


def _cells(row: Row) -> list[str]:
    if row.win_rate is None or row.change is None:
        return [row.candidate, str(row.step), "-", "-", "-", "-", row.stopped]
    value, low, high = row.win_rate
    share, captions = row.preferred_share, row.caption_match
    return [
        row.candidate,
        str(row.step),
        signed(row.change, 3),
        f"{percent(value)} ({percent(low)} to {percent(high)})",
        "-" if share is None else f"{percent(share[0])} -> {percent(share[1])}",
        "-" if captions is None else f"{captions[0]:.1f} -> {captions[1]:.1f}",
        ", ".join(row.flags) or "-",
    ]
