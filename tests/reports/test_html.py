"""The page as text: nothing fetched, nothing executed, nothing missing in silence; written in one step."""

import json
import re
from html.parser import HTMLParser

import pytest

from penchant.errors import DataError, RunFolderError
from penchant.evaluation.drift import drift_measure
from penchant.evaluation.flags import Thresholds, find_flags
from penchant.evaluation.results import Drift, read_results
from penchant.reports.contents import read_metrics
from penchant.reports.html import (
    BUCKET_CHARTS,
    TRAINING_CHARTS,
    allowed_change,
    data_summary,
    drift_rows,
    flattened,
    training_charts,
    write_report,
)

HEADINGS = [
    "Before and after",
    "Win-rates",
    "Training",
    "Drift",
    "Data",
    "Effective run file",
    "Versions and hashes",
]


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of the styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.inside = [], [], []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.inside:
            self.texts.append(data)


def page_of(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_nothing_is_fetched_and_nothing_runs(run_folder):
    page = page_of(run_folder)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "form"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    text = write_report(run_folder).read_text(encoding="utf-8")
    outside = re.sub('data:[^"]*', "", text)
    assert not re.search(r"//[a-z]|@import|url\(", outside)


def test_hostile_prompts_are_shown_as_text(run_folder):
    page = page_of(run_folder)
    assert "<script>alert(1)</script> \"quoted\" & 'so' <img src=x onerror=alert(2)>" in page.text
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts[2].startswith("Base model: <script>alert(1)</script>")
    assert all(alts)


def test_everything_is_there_in_order(run_folder):
    page, results = page_of(run_folder), read_results(run_folder / "results.json")
    places = [page.text.index(f" {heading} ") for heading in HEADINGS]
    assert places == sorted(places)
    assert f"{100 * results.win_rate.value:.1f}".removesuffix(".0") + "%" in page.text
    assert f"{results.effect_size.value:.2f}".replace("-", "\u2212") in page.text
    for words in ("beta: 800.0", "7c1f0a5be2d94c11", "versions.torch", "Show the other 6 pairs", "1.74 GB"):
        assert words in page.text
    for flag in results.drift.flags:
        assert flag.sentence in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 62  # 30 pairs and two contact sheets


def test_an_empty_folder_gives_a_page_that_says_what_to_run(tmp_path):
    page = page_of(tmp_path)
    assert "This run folder is not complete" in page.text
    for command in ("train RUN.yaml", f"evaluate {tmp_path}"):
        assert f"penchant {command}" in page.text
    for heading in HEADINGS:
        assert heading in page.text


@pytest.mark.parametrize(
    "gone", ["run.yaml", "manifest.json", "metrics.jsonl", "results.json", "samples/index.jsonl"]
)
def test_each_part_may_be_missing(run_folder, gone):
    (run_folder / gone).unlink()
    assert "Not there yet:" in page_of(run_folder).text


def test_results_without_style_or_caption_judge(run_folder):
    file = run_folder / "results.json"
    rows = json.loads(file.read_text())
    rows.update(preferred_share=None, caption_match=None, peak_memory=None)
    rows["evaluation"].update(tie_margin=0.25)
    file.write_text(json.dumps(rows))
    page = page_of(run_folder)
    assert "Preferred share" not in page.text
    assert "Differences up to 0.25 are ties." in page.text


def test_curves_that_were_not_logged_are_named():
    metrics = read_metrics('{"step": 1, "split": "train", "loss": 0.7, "error/winner_change": 0.1}')
    drawn, absent = training_charts(metrics, TRAINING_CHARTS)
    assert [chart["title"] for chart in drawn] == ["Loss", "Error against the reference"]
    assert absent[:3] == ["margin/mean", "margin/positive", "error/loser_change"]
    assert absent[3:] == ["gradient/norm", "gradient/factor"]
    assert training_charts(metrics, BUCKET_CHARTS)[0] == []


def test_curves_by_noise_level_are_drawn_per_metric():
    row = {"step": 1, "split": "train", **{f"margin/mean/t{i}": float(i) for i in range(4)}}
    drawn, _ = training_charts(read_metrics(json.dumps(row)), BUCKET_CHARTS)
    assert [(chart["title"], len(chart["legend"])) for chart in drawn] == [("Margin by noise level", 4)]


def test_the_allowed_range_reaches_to_the_preferred_images():
    limits = Thresholds().by_name()
    line = drift_measure("saturation", "", [0.4], [0.5], preferred=0.6)
    assert allowed_change(line, limits) == pytest.approx((-0.25, 0.75))
    assert allowed_change(drift_measure("other", "", [0.4], [0.5]), limits) is None
    caption = drift_measure("caption match", "points", [60.0], [50.0])
    assert allowed_change(caption, limits) == pytest.approx((-0.05, float("inf")))


def test_flagged_lines_are_the_flagged_measures(run_folder):
    panel = (
        drift_measure("saturation", "", [0.4] * 4, [0.8] * 4),
        drift_measure("contrast", "", [0.4] * 4, [0.41] * 4),
        drift_measure("edge density", "", [0.0] * 4, [0.1] * 4),
        drift_measure("diversity between seeds", "", [0.4] * 4, [0.9] * 4),
        drift_measure("caption match", "points", [50.0] * 4, [40.0] * 4),
    )
    wins = read_results(run_folder / "results.json").win_rate
    flags = find_flags(panel, headline=("style", wins))
    rows = drift_rows(Drift(panel=panel, flags=flags, limits=Thresholds().by_name()))
    assert [row["flagged"] for row in rows] == [True, False, False, False, True]
    assert [row["change"] for row in rows] == [
        "+100% (+100 to +100%)", "+2% (+2 to +2%)", "+0.100 (base is 0)", "+125% (+125 to +125%)",
        "\u221210.0 (\u221210.0 to \u221210.0)",
    ]  # fmt: skip


def test_the_data_summary_joins_run_file_manifest_and_hash():
    rows = data_summary({"path": "a.parquet", "flip": False}, {"pairs": 1460}, "abc")
    assert rows == [("path", "a.parquet"), ("flip", "False"), ("pairs", "1460"), ("content hash", "abc")]
    assert data_summary("emoji-pairs", None, None) == [("path", "emoji-pairs")]
    assert data_summary(None, None, None) == []


def test_nested_manifests_become_lines():
    nested = {"a": {"b": 1, "c": None}, "d": ["x", "y"], "e": [{"f": 2}], "g": {}}
    assert list(flattened(nested)) == [("a.b", "1"), ("a.c", "none"), ("d", "x, y"), ("e[0].f", "2")]


def test_a_broken_part_keeps_the_old_report(run_folder):
    old = write_report(run_folder).read_bytes()
    (run_folder / "results.json").write_text("{")
    with pytest.raises(DataError, match="results.json: not valid JSON"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_bytes() == old


def test_a_folder_that_cannot_be_written(run_folder):
    (run_folder / "report.html").mkdir()
    with pytest.raises(RunFolderError, match="report.html: cannot be written"):
        write_report(run_folder)
    assert not list(run_folder.glob("*.partial"))


def test_a_report_without_a_run_is_the_users_own(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(RunFolderError, match=r"report.html: is there, and nothing of a run beside it"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"
