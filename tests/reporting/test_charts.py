"""Line charts: where points, ticks and marks lie; rounded numbers."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.reporting import Line, Mark, line_chart
from mlx_lora.reporting.charts import LETTER, MOST_POINTS
from mlx_lora.reporting.numbers import duration, nice_ticks, rounded

SVG = "{http://www.w3.org/2000/svg}"


def read(chart):
    return ElementTree.fromstring(str(chart))


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 9))
def test_ticks_enclose_the_values_in_equal_nice_steps(low, span, count):
    high = low + span
    if high == low or span < abs(low) * 1e-9:
        return
    ticks = nice_ticks(low, high, count)
    steps = [b - a for a, b in pairwise(ticks)]
    assert ticks[0] <= low + steps[0] * 1e-6
    assert ticks[-1] >= high - steps[0] * 1e-6
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-4)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5, 10)) < 1e-3
    assert 2 <= len(ticks) <= 2 * count + 2


def test_ticks_of_one_value():
    assert nice_ticks(0.0, 0.0)[0] < 0 < nice_ticks(0.0, 0.0)[-1]
    assert nice_ticks(2.5, 2.5)[0] < 2.5 < nice_ticks(2.5, 2.5)[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (54, "54"), (12340.6, "12,341"), (0.39214159265358, "0.3921"), (0.0002, "2e-4"), (-0.5, "-0.5")),
        *((1.5e-7, "1.5e-7"), (2.0, "2"), (999.94, "999.9"), (None, "–"), (float("nan"), "nan")),
    ],
)
def test_rounded(value, text):
    assert rounded(value) == text


def test_durations():
    assert [duration(s) for s in (0.25, 42, 90, 3600 * 2 + 320)] == ["0.2 s", "42 s", "1 min 30 s", "2 h 5 min"]


def test_points_lie_where_the_axes_say():
    chart = read(line_chart("Loss", [Line("training", [(0, 1.0), (40, 2.0), (100, 3.0)])]))
    places = [tuple(map(float, p.split(","))) for p in chart.find(f"{SVG}polyline").get("points").split()]
    texts = {t.text: (float(t.get("x")), float(t.get("y"))) for t in chart.findall(f"{SVG}text")}
    (x0, y1), (x1, _), (x2, y3) = places
    assert (x0, x1, x2) == pytest.approx((texts["0"][0], texts["40"][0], texts["100"][0]))
    # A label's baseline is 4 pixels below its gridline.
    assert (y1, y3) == pytest.approx((texts["1"][1] - 4, texts["3"][1] - 4))
    assert chart.get("aria-label") == "Loss: training from 1 to 3, least 1"


def test_the_pointer_is_told_every_series():
    lines = [Line("training", [(1, 2.123456), (2, 1.0)]), Line("validation", [(2, 1.5)], dots=True)]
    data = json.loads(read(line_chart("Loss", lines)).get("data-chart"))
    assert data["lines"] == [["training", [[1, 2.123], [2, 1.0]]], ["validation", [[2, 1.5]]]]
    assert data["x"] == [1, 2]


def test_marks_say_what_they_are_and_those_outside_are_left_out():
    marks = [Mark(2, "checkpoint of step 2"), Mark(3, "mind the <gap>", "warning"), Mark(9, "later")]
    chart = read(line_chart("Loss", [Line("training", [(1, 2.0), (4, 1.0)])], marks=marks))
    assert [t.text for t in chart.iter(f"{SVG}title")] == ["checkpoint of step 2", "mind the <gap>"]
    assert {"checkpoint", "warning"} <= {t.text for t in chart.findall(f"{SVG}text")}


def test_peaks_survive_thinning():
    points = [(float(x), 1.0) for x in range(10_000)]
    points[4321], points[7000] = (4321.0, 9.0), (7000.0, float("nan"))
    chart = read(line_chart("Loss", [Line("training", points)]))
    drawn = json.loads(chart.get("data-chart"))["lines"][0][1]
    assert [4321, 9.0] in drawn
    assert len(drawn) <= MOST_POINTS + 2
    assert drawn[0][0] == 0
    assert drawn[-1][0] == 9999


def test_nothing_to_draw_and_a_single_point():
    assert line_chart("empty", [Line("a", []), Line("b", [(1, float("inf"))])]) == ""
    assert len(read(line_chart("one", [Line("a", [(1, 2.0)])])).findall(f"{SVG}circle")) == 1


def test_a_file_of_its_own_has_its_style():
    chart = str(line_chart("Loss", [Line("a", [(1, 2.0), (2, 3.0)])], standalone=True))
    assert re.search(r"<style>svg\.chart\{[^<]*prefers-color-scheme:dark", chart)


def test_names_that_do_not_fit_beside_each_other_stand_below_each_other():
    lines = [Line(f"a long name of part {number}", [(0, 1), (1, 2)]) for number in range(5)]
    lines.append(Line("x" * 500, [(0, 1), (1, 2)]))
    chart = str(line_chart("Loss", lines, unit="nats a token", width=360))
    places = [
        (int(x), int(y), text)
        for x, y, text in re.findall(r'<text x="(\d+)" y="(\d+)">((?:a long|…x)[^<]*)</text>', chart)
    ]
    assert len(places) == 6
    assert all(x + LETTER * len(text) <= 360 for x, _, text in places)
    assert len({y for _, y, _ in places}) > 3
    # The drawing begins below the last of them.
    top = min(float(y) for points in re.findall(r'points="([^"]+)"', chart) for y in re.findall(r",([\d.]+)", points))
    assert top > max(y for _, y, _ in places)
