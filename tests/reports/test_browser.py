"""The page in headless Chromium, opened from disk: no errors, no requests, no sideways scroll, pictures."""

import pytest

from penchant.evaluation.results import read_results
from penchant.reports.html import write_report
from penchant.reports.summary import percent


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_the_page_renders_without_trouble(run_folder, open_page, width):
    page, troubles = open_page(write_report(run_folder), width)
    page.locator("details").first.evaluate("element => element.open = true")
    assert troubles == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.eval_on_selector_all("img", "images => images.map(i => [i.naturalWidth, i.width])")
    assert len(sizes) == 62  # two contact sheets and 30 pairs
    assert all(natural == 768 and shown > 300 for natural, shown in sizes[:2])
    assert all(natural == 64 and shown > 90 for natural, shown in sizes[2:])
    results = read_results(run_folder / "results.json")
    text = page.inner_text("main")
    assert percent(results.win_rate.value) in text
    assert percent(results.preferred_share.tuned.value) in text
    assert f"{results.caption_match.tuned.value:.1f}" in text
    assert "<script>alert(1)</script>" in text


def test_base_stands_left_of_tuned_and_charts_have_size(run_folder, open_page):
    page, _ = open_page(write_report(run_folder), 390)
    base, tuned = (
        page.locator(f".pair figure.{side} img").first.bounding_box() for side in ("base", "tuned")
    )
    assert base["x"] < tuned["x"]
    assert base["y"] == tuned["y"]
    boxes = page.eval_on_selector_all(
        ".chart > svg, .interval",
        "all => all.map(s => s.getBoundingClientRect()).map(b => [b.width, b.height])",
    )
    assert len(boxes) > 10
    assert all(width > 100 and height >= 20 for width, height in boxes)


def test_the_sheets_are_switched_in_place(run_folder, open_page):
    page, troubles = open_page(write_report(run_folder), 1280)
    sheets = {side: page.locator(f".sheets .{side} img") for side in ("base", "tuned")}
    page.get_by_label("before", exact=True).check()
    assert not sheets["tuned"].is_visible()
    before = sheets["base"].bounding_box()
    page.keyboard.press("ArrowRight")
    assert not sheets["base"].is_visible()
    assert sheets["tuned"].bounding_box() == before
    page.emulate_media(media="print")
    assert all(sheet.is_visible() for sheet in sheets.values())
    assert troubles == []


def test_an_empty_run_folder_renders_too(tmp_path, open_page):
    page, troubles = open_page(write_report(tmp_path), 390)
    assert troubles == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "This run folder is not complete" in page.inner_text("main")


def test_long_words_do_not_widen_the_page(run_folder, open_page):
    (run_folder / "run.yaml").write_text("method: " + "x" * 900 + "\n")
    (run_folder / "manifest.json").write_text('{"' + "k" * 400 + '": "' + "v" * 900 + '"}')
    page, troubles = open_page(write_report(run_folder), 390)
    assert troubles == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
