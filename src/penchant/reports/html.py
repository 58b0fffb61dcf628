"""One self-contained page about a run: pictures, charts and styles are inside, nothing is fetched."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from markupsafe import Markup

from penchant.errors import RunFolderError
from penchant.evaluation.drift import CAPTION_MATCH, DIVERSITY, DriftMeasure
from penchant.evaluation.results import Drift, Results
from penchant.reports import charts
from penchant.reports.contents import Metrics, RunContents, read_run_folder
from penchant.reports.gallery import NUM_VISIBLE, contact_sheets, gallery
from penchant.reports.page import render_page, write_page
from penchant.reports.summary import (
    change_text,
    effect_text,
    number,
    percent,
    percent_range,
    signed,
    summarise,
)
from penchant.runs.folder import RunFolder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ChartPlan:
    """Which metrics one chart shows, under which labels."""

    title: str
    note: str
    metrics: tuple[tuple[str, str], ...]
    reference: float | None = None
    limits: tuple[float, float] | None = None


NOISE_QUARTERS = tuple(
    (f"t{i}", label) for i, label in enumerate(("least noise", "low", "high", "most noise"))
)

TRAINING_CHARTS = (
    ChartPlan(title="Loss", note="Falls from its value at rest.", metrics=(("loss", "loss"),)),
    ChartPlan(
        title="Margin",
        note="Log-ratio of the winner minus that of the loser, in nats; 0 at the start.",
        metrics=(("margin/mean", "margin"),),
        reference=0.0,
    ),
    ChartPlan(
        title="Implicit accuracy",
        note="Share of pairs whose winner the model prefers; 0.5 is chance.",
        metrics=(("margin/positive", "accuracy"),),
        reference=0.5,
        limits=(0.0, 1.0),
    ),
    ChartPlan(
        title="Error against the reference",
        note="Change of the denoising error. The winner's line should not rise above 0.",
        metrics=(("error/winner_change", "winner"), ("error/loser_change", "loser")),
        reference=0.0,
    ),
    ChartPlan(title="Gradient norm", note="Before clipping.", metrics=(("gradient/norm", "norm"),)),
    ChartPlan(
        title="Gradient factor",
        note="Pull of the objective; 0.5 at rest, near 0 it is saturated.",
        metrics=(("gradient/factor", "factor"),),
        limits=(0.0, 1.0),
        reference=0.5,
    ),
)

BUCKET_CHARTS = tuple(
    ChartPlan(
        title=f"{plan.title}{suffix} by noise level",
        note="Quarters of the noise scale; training is smoothed.",
        metrics=tuple((f"{metric}/{bucket}", label) for bucket, label in NOISE_QUARTERS),
        reference=plan.reference,
        limits=plan.limits,
    )
    for plan in TRAINING_CHARTS
    for metric, suffix in [
        (metric, f", {label}" if len(plan.metrics) > 1 else "") for metric, label in plan.metrics
    ]
    if metric != "gradient/norm"
)


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, in one step, and return its path.

    Args:
        run_folder: See `read_run_folder`; the page says which parts are missing and what makes them.

    Raises:
        RunFolderError: The folder is not there or cannot be written, or has a report and nothing of a run.
        DataError: A part of the folder is there but cannot be read.
    """
    folder = RunFolder(run_folder)
    if folder.report.exists() and not (folder.run_file.exists() or folder.manifest.exists()):
        raise RunFolderError(
            f"{folder.report}: is there, and nothing of a run beside it, so it is not replaced. Give the "
            "folder that penchant train has written."
        )
    return write_page(folder.report, render(read_run_folder(run_folder)))


def render(contents: RunContents) -> str:
    """The page of a run as text."""
    results, manifest = contents.results, dict(contents.manifest or {})
    data = data_summary(contents.run.get("data"), manifest.pop("data", None), manifest.get("data_hash"))
    pairs = gallery(contents.pairs)
    drawn, not_logged = training_charts(contents.metrics, TRAINING_CHARTS)
    return render_page(
        "report",
        name=contents.name,
        contents=contents,
        summary=summarise(contents),
        results=results,
        effect=None if results is None else effect_text(results.effect_size),
        change=None if results is None else change_text(results.effect_size),
        win_rates=[] if results is None else win_rate_rows(results),
        drift=[] if results is None else drift_rows(results.drift),
        visible=pairs[:NUM_VISIBLE],
        hidden=pairs[NUM_VISIBLE:],
        sheets=contact_sheets(contents.pairs),
        exact=all(picture.exact for pair in pairs for picture in (pair.base, pair.tuned)),
        charts=drawn,
        not_logged=not_logged,
        bucket_charts=training_charts(contents.metrics, BUCKET_CHARTS)[0],
        swatches=[charts.swatch(i) for i in range(len(charts.COLOURS))],
        data_rows=data,
        manifest_rows=list(flattened(manifest)),
    )


def training_charts(metrics: Metrics, plans: tuple[ChartPlan, ...]) -> tuple[list[dict[str, Any]], list[str]]:
    """Charts that have at least one value, and the names of metrics that were not logged."""
    drawn, absent = [], []
    for plan in plans:
        curves = []
        for name, label in plan.metrics:
            train, heldout = metrics.train.get(name, ()), metrics.heldout.get(name, ())
            if train or heldout:
                curves.append(charts.Curve(label=label, train=train, heldout=heldout))
            else:
                absent.append(name)
        if curves:
            svg = charts.line_chart(curves, title=plan.title, reference=plan.reference, limits=plan.limits)
            legend = [curve.label for curve in curves] if len(curves) > 1 else []
            drawn.append({"title": plan.title, "note": plan.note, "svg": svg, "legend": legend})
    return drawn, absent


def win_rate_rows(results: Results) -> list[dict[str, Any]]:
    """One line per score: the headline metric first, then the others."""
    effect, unit = results.effect_size, results.evaluation.unit
    means = _means(effect.base_mean, effect.tuned_mean, unit)
    judged = [(results.evaluation.metric, "headline", means, results.win_rate)]
    judged += [
        (name, score.role, _means(score.base.value, score.tuned.value, score.unit), score.win_rate)
        for name, score in results.other_scores.items()
    ]
    return [
        {
            "name": name,
            "role": role,
            "means": means,
            "rate": rate,
            "p": "< 0.0001" if rate.sign_test_p < 1e-4 else f"{rate.sign_test_p:.2g}",
            "svg": charts.interval_chart(
                rate.value,
                rate.low,
                rate.high,
                ends=(0.0, 1.0),
                middle=0.5,
                label=f"Win-rate {percent(rate.value)}, interval {percent_range(rate)}",
            ),
        }
        for name, role, means, rate in judged
    ]


def drift_rows(drift: Drift) -> list[dict[str, Any]]:
    """One line per measure of the panel, drawn as change relative to the base mean."""
    bands = {measure.name: allowed_change(measure, drift.limits) for measure in drift.panel}
    largest = max(
        (abs(end) for measure in drift.panel for end in _drawn(measure, bands[measure.name])), default=1
    )
    edge = min(math.ceil(10 * largest) / 10, 1.5) or 0.1
    flagged = {flag.measure for flag in drift.flags}
    return [
        {
            "measure": measure,
            "flagged": measure.name in flagged,
            "means": _means(measure.base, measure.tuned, ""),
            "change": _change_text(measure),
            "svg": _drift_svg(measure, bands[measure.name], edge, measure.name in flagged),
        }
        for measure in drift.panel
    ]


def allowed_change(measure: DriftMeasure, limits: Mapping[str, float]) -> tuple[float, float] | None:
    """Relative changes that raise no flag; None if the measure has no limit or no relative change."""
    limit = limits.get(measure.name)
    if limit is None or measure.relative_change is None:
        return None
    if measure.name == CAPTION_MATCH:
        return -limit / abs(measure.base), math.inf
    if measure.name == DIVERSITY:
        return -limit, math.inf
    goal = 0.0 if measure.preferred is None else (measure.preferred - measure.base) / abs(measure.base)
    return min(0.0, goal) - limit, max(0.0, goal) + limit


def data_summary(setting: Any, summary: Any, content_hash: Any) -> list[tuple[str, str]]:
    """Lines on the data: what the run file asks for, what the manifest counted, and the content hash."""
    named = setting if isinstance(setting, Mapping) else {"path": setting} if setting is not None else {}
    rows = {**named, **(summary if isinstance(summary, Mapping) else {})}
    if content_hash is not None:
        rows["content hash"] = content_hash
    return list(flattened(rows))


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings and lists as lines of dotted key and text."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flattened(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for i, item in enumerate(value):
            yield from flattened(item, f"{path}[{i}]")
    elif isinstance(value, list):
        yield path, ", ".join(str(item) for item in value)
    elif not isinstance(value, Mapping):
        yield path, "none" if value is None else str(value)


def _means(base: float, tuned: float, unit: str) -> str:
    return f"{number(base)} → {number(tuned)} {unit}"


def _drawn(measure: DriftMeasure, band: tuple[float, float] | None) -> list[float]:
    scale = abs(measure.base)
    ends = [] if measure.relative_change is None else [measure.low / scale, measure.high / scale]
    return [end for end in (*ends, *(band or ())) if math.isfinite(end)]


def _change_text(measure: DriftMeasure) -> str:
    if measure.name == CAPTION_MATCH:
        return f"{signed(measure.difference)} ({signed(measure.low)} to {signed(measure.high)})"
    if measure.relative_change is None:
        return f"{signed(measure.difference, 3)} (base is 0)"
    low, high = (signed(100 * end / abs(measure.base), 0) for end in (measure.low, measure.high))
    return f"{signed(100 * measure.relative_change, 0)}% ({low} to {high}%)"


def _drift_svg(measure: DriftMeasure, band: tuple[float, float] | None, edge: float, flagged: bool) -> Markup:
    if measure.relative_change is None:
        return Markup("")
    scale = abs(measure.base)
    return charts.interval_chart(
        measure.relative_change,
        measure.low / scale,
        measure.high / scale,
        ends=(-edge, edge),
        middle=0.0,
        band=band,
        flagged=flagged,
        label=f"{measure.name}, change {_change_text(measure)}",
    )
