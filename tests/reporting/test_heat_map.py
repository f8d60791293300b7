"""Heat maps: numbers in their cells, cells that are missing, a scale that everybody can order and read."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from mlx_lora.reporting.heat_map import CELL, DARK_INK, HEAT_STYLE, ROW, STEPS, HeatScale, heat_map, short

SVG = "{http://www.w3.org/2000/svg}"
VALUES = [[1.0, None, None], [0.25, 0.996, None], [0.5, float("nan"), 0.0]]


def drawn(values=VALUES, names=("1", "2", "3"), **options):
    return ElementTree.fromstring(str(heat_map("R", names, names, values, **options)))


def cells(svg):
    return [group for group in svg.iter(f"{SVG}g") if group.get("class").startswith("cell")]


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_each_cell_has_its_number_its_place_and_a_title():
    found = cells(drawn(row_label="after", column_label="on night", unit="score", bounds=(0, 1)))
    texts = [cell.find(f"{SVG}text").text for cell in found]
    # 0.996 is not a full score, and must not look like one.
    assert texts == ["1.00", "–", "–", "0.25", "0.99", "–", "0.50", "–", "0.00"]
    titles = [cell.find(f"{SVG}title").text for cell in found]
    assert titles[3:6] == ["2, 1: 0.25 score", "2, 2: 0.996 score", "2, 3: not measured"]
    boxes = [[float(cell.find(f"{SVG}rect").get(key)) for key in ("x", "y")] for cell in found]
    assert boxes[4][0] - boxes[3][0] == CELL
    assert boxes[3][1] - boxes[0][1] == ROW
    kinds = [cell.get("class") for cell in found]
    assert kinds == [
        *("cell h8 own", "cell none", "cell none"),
        *("cell h2", "cell h8 own", "cell none"),
        *("cell h4", "cell none", "cell h0 own"),
    ]


def test_what_is_said_to_those_who_do_not_see_it():
    label = drawn(unit="score").get("aria-label")
    assert label == "R, score: 1: 1 (1) to 1; 2: 0.25 (1) to 0.996; 3: 0 (3) to 0.5"
    assert drawn().get("role") == "img"


def test_a_lower_loss_is_brighter_and_the_legend_says_so():
    found = drawn([[2.0, 1.0], [3.0, 1.5]], names=("1", "2"), lower_is_better=True)
    assert [cell.get("class").split()[1] for cell in cells(found)] == ["h4", "h8", "h0", "h6"]
    texts = [text.text for text in found.findall(f"{SVG}text")]
    assert texts[-2:] == ["3.00 worse", "1.00 better"]


def test_one_value_and_values_out_of_bounds():
    assert HeatScale(0.5, 0.5).step(0.5) == len(STEPS) - 1
    assert [HeatScale(0, 1).step(value) for value in (-1, 2)] == [0, len(STEPS) - 1]
    assert [HeatScale(0, 1, True).step(value) for value in (-1, 2)] == [len(STEPS) - 1, 0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1, "1.00"), (0.999, "0.99"), (0.994, "0.99"), (0, "0.00"), (0.004, "0.004"), (1e-5, "1e-5")),
        *((12.34, "12.3"), (123.4, "123"), (12345, "1e4"), (-0.5, "-0.50")),
    ],
)
def test_numbers_fit_in_a_cell(value, text):
    assert short(value) == text


def test_nothing_to_draw():
    assert heat_map("R", [], [], []) == ""
    assert heat_map("R", ["1"], ["1"], [[math.inf]]) == ""


def test_the_scale_rises_in_lightness_and_its_letters_can_be_read():
    lightness = [luminance(colour) for colour in STEPS]
    assert all(b > a * 1.1 for a, b in pairwise(lightness))
    for number, light in enumerate(lightness):
        contrast = (light + 0.05) / 0.05 if number >= DARK_INK else 1.05 / (light + 0.05)
        assert contrast >= 4.5, STEPS[number]


def test_hostile_names_are_text_and_a_file_of_its_own_has_its_style():
    evil = '<script>alert(1)</script>" onload="x'
    svg = drawn([[1.0]], names=(evil,), standalone=True, row_label=evil, unit=evil)
    assert not list(svg.iter(f"{SVG}script"))
    assert set(svg.attrib) == {"class", "width", "height", "viewBox", "role", "aria-label"}
    assert svg.find(f"{SVG}style").text == HEAT_STYLE
    assert re.search("prefers-color-scheme:dark", HEAT_STYLE)
