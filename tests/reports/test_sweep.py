"""A sweep for the terminal and as a page: who went how far, in numbers and in pictures."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.reports.conftest import build_run_folder

from penchant.reports.gallery import SHEET_COLUMNS
from penchant.reports.sweep import table, write_sweep
from penchant.runs.sweep import Candidate, Plan, Row, Sweep

JUDGED = Row(
    candidate="seed=1",
    step=10,
    change=0.25,
    win_rate=(0.75, 0.6, 0.86),
    preferred_share=(0.2, 0.5),
    caption_match=(74.0, 73.5),
)
STOPPED = Row(candidate="seed=3", step=10, stopped="the loss is not a number <b>")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two candidates that were drawn and one that stopped itself; the second one went on."""
    folder = tmp_path_factory.mktemp("sweeps") / "by seed"
    names = ("seed=1", "seed=2", "seed=3")
    for name in names[:2]:
        build_run_folder(folder / name, num_pairs=8)
    plan = Plan(
        path=folder / "run.yaml",
        folder=folder,
        metric="style",
        candidates=tuple(Candidate(name=name, assignments=()) for name in names),
        stops=(10, 20),
    )
    better = replace(JUDGED, candidate="seed=2", change=0.5, flags=("over-optimisation: contrast",))
    return Sweep(plan, [JUDGED, better, STOPPED, replace(better, step=20, win_rate=(0.9, 0.8, 0.95))])


def test_the_table_has_each_candidate_where_it_was_left(finished):
    shown = io.StringIO()
    Console(file=shown, width=200).print(table(finished))
    rows = [line for line in shown.getvalue().splitlines() if "seed=" in line]
    assert [[word.strip() for word in row.split("│")[1:3]] for row in rows] == [
        ["seed=2", "20"],
        ["seed=1", "10"],
        ["seed=3", "10"],
    ]
    assert "90% (80% to 95%)" in rows[0] and "20% -> 50%" in rows[1] and "not a number" in rows[2]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_renders_without_trouble(finished, open_page, width):
    report = finished.plan.folder / "seed=2" / "report.html"
    path = write_sweep(finished, report=report)
    assert path == finished.plan.folder / "sweep.html"
    page, troubles = open_page(path, width)
    assert troubles == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("link").get_attribute("href") == "seed%3D2/report.html"
    captions = [text.strip() for text in page.locator(".strip figcaption").all_inner_texts()]
    assert captions == ["base model", "seed=2, step 20", "seed=1, step 10"]
    sizes = page.eval_on_selector_all("img", "images => images.map(i => [i.naturalWidth, i.naturalHeight])")
    assert sizes == [[128 * SHEET_COLUMNS, 128]] * 3
    heads = [text.split("\n") for text in page.locator("tbody th").all_inner_texts()]
    assert heads == [
        ["seed=2", "went to the end"],
        ["seed=2", "went on"],
        ["seed=1", "given up"],
        ["seed=3", "given up"],
    ]
    text = page.inner_text("main")
    assert "3 candidates trained from the same start" in text and "at steps 10 and 20" in text
    assert "the loss is not a number <b>" in text
    assert "<script>alert(1)</script>" in text, "prompts are shown as text"
    assert page.locator(".interval").count() == 3
