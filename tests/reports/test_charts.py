"""Charts: worked values, size, and text that cannot break out of the drawing."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.reports.charts import (
    HEIGHT,
    LEFT,
    MAX_POINTS,
    WIDTH,
    Curve,
    Scale,
    interval_chart,
    line_chart,
    smoothed,
    swatch,
    ticks,
)


def test_smoothing_worked_by_hand():
    # window 3: decay 1/2. 4; (2 + 0) / 1.5 = 4/3; (1 + 0 + 2) / 1.75 = 12/7
    points = smoothed(((1, 4.0), (2, 0.0), (3, 2.0)), window=3)
    assert [step for step, _ in points] == [1, 2, 3]
    assert [value for _, value in points] == pytest.approx([4.0, 4 / 3, 12 / 7])


@given(st.floats(-5, 5), st.integers(1, 50), st.integers(1, 60))
def test_smoothing_keeps_a_constant(value, window, count):
    points = tuple((step, value) for step in range(count))
    assert [v for _, v in smoothed(points, window=window)] == pytest.approx([value] * count)


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e4))
def test_ticks_are_few_round_and_inside(low, width):
    values = ticks(low, low + width)
    assert 2 <= len(values) <= 7
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in values)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 240, [0, 50, 100, 150, 200])]
)
def test_ticks_worked_by_hand(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_scale_is_linear_and_stops_at_its_edges():
    scale = Scale(0, 10, 100, 200)
    assert [scale(value) for value in (0, 5, 10, -3, 12)] == [100, 150, 200, 100, 200]


def test_a_long_noisy_run_stays_small_and_well_formed():
    points = tuple((step, (step * 7919 % 101) / 100) for step in range(50_000))
    curves = [Curve(label=name, train=points, heldout=points[::100]) for name in ("a", "b")]
    svg = line_chart(curves, title="Loss", reference=0.5)
    assert len(svg) < 60_000
    drawing = ElementTree.fromstring(svg)
    assert drawing.get("role") == "img"
    assert drawing.get("aria-label").startswith("Loss. a, training from 0 to")
    lines = [path.get("d") for path in drawing.iter("path") if "line" in path.get("class", "")]
    assert [line.count("L") for line in lines] == [MAX_POINTS - 1] * 2
    for line in lines:
        for pair in line[1:].split("L"):
            x, y = map(float, pair.split())
            assert LEFT <= x <= WIDTH
            assert 0 <= y <= HEIGHT


@pytest.mark.parametrize("values", [(0.5,), (0.0, 0.0), (3e6, 4e6), (1e-5, 2e-5), (-2.0, 700.0)])
def test_any_values_can_be_drawn(values):
    points = tuple(enumerate(values, start=1))
    ElementTree.fromstring(line_chart([Curve(label="x", train=points)], title="t"))
    ElementTree.fromstring(line_chart([Curve(label="x", train=(), heldout=points)], title="t"))


def test_one_spike_does_not_flatten_the_curve():
    points = tuple((step, 1e6 if step == 500 else 1.0 + step / 1000) for step in range(1, 1001))
    drawing = ElementTree.fromstring(line_chart([Curve(label="x", train=points)], title="t"))
    labels = [text.text for text in drawing.iter("text")]
    assert labels[:3] == ["1.0", "1.2", "1.4"]


def test_hostile_labels_stay_text():
    hostile = '"><script>alert(1)</script>'
    for svg in (
        line_chart([Curve(label=hostile, train=((1, 1.0),))], title=hostile),
        interval_chart(0.5, 0.4, 0.6, ends=(0, 1), middle=0.5, label=hostile),
    ):
        assert "<script" not in svg
        assert hostile in ElementTree.fromstring(svg).get("aria-label")


def test_an_interval_lies_where_its_values_are():
    svg = interval_chart(0.75, 0.5, 1.0, ends=(0, 1), middle=0.5, band=(0.25, 5.0), label="x")
    drawing = ElementTree.fromstring(svg)
    # the line runs from 2 % to 98 %: 0.75 lies at 2 + 0.75 * 96 = 74 %
    assert drawing.find("circle").get("cx") == "74.00%"
    band = drawing.find("rect")
    assert (band.get("x"), band.get("width")) == ("26.00%", "72.00%")
    flagged = ElementTree.fromstring(
        interval_chart(0.75, 0.5, 1.0, ends=(0, 1), middle=0.5, label="x", flagged=True)
    )
    assert flagged.find("circle") is None
    assert flagged.find("svg").get("x") == "74.00%"


def test_a_swatch_matches_its_line():
    assert ElementTree.fromstring(swatch(1)).find("path").get("stroke") == "#d55e00"
