"""Line charts as SVG: axes, ticks, gridlines, several series and marks, in a dark and a light scheme."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from .numbers import log_ticks, nice_ticks, rounded

Points = Sequence[tuple[float, float]]

# Colours that are distinct for every kind of colour blindness (Okabe and Ito), brighter in the dark.
SERIES = (("#0072b2", "#56b4e9"), ("#d55e00", "#ff9e4a"), ("#007a5a", "#35c9a0"), ("#a0508c", "#e08fc4"))
CHART_STYLE = (
    "svg.chart{--ink:#444;--grid:#ddd;--warn:#b3261e;font:12px system-ui,sans-serif}"
    + "svg.chart{"
    + "".join(f"--s{i}:{light};" for i, (light, _) in enumerate(SERIES))
    + "}@media(prefers-color-scheme:dark){svg.chart{--ink:#bbb;--grid:#3a3a3a;--warn:#ff8a80;"
    + "".join(f"--s{i}:{dark};" for i, (_, dark) in enumerate(SERIES))
    + "}}svg.chart text{fill:var(--ink)}svg.chart .grid{stroke:var(--grid);stroke-width:1}"
    "svg.chart .axis{stroke:var(--ink);stroke-width:1}svg.chart .line{fill:none;stroke-width:1.75}"
    "svg.chart .checkpoint{fill:var(--ink)}svg.chart .warning{stroke:var(--warn);stroke-dasharray:3 3}"
    "svg.chart .pointer{stroke:var(--ink);stroke-width:1}"
    + "".join(f"svg.chart .s{i}{{stroke:var(--s{i})}}svg.chart .f{i}{{fill:var(--s{i})}}" for i in range(len(SERIES)))
)
# Kinds of marks, drawn for the legend from its line of text upwards.
MARKS = {"checkpoint": "l5 -9 5 9z", "warning": "m0 -4h12"}
# Approximate width of a letter.
LETTER = 6
# Height of a row of names above a chart.
LEGEND_ROW = 16
# More points than this on one line cannot be told apart.
MOST_POINTS = 400


@dataclass(frozen=True)
class Line:
    """A named series.

    Attributes:
        points: (x, y), in order of x; values that are not finite are left out.
        dots: draw each point as well, for series with few measurements.
    """

    name: str
    points: Points
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A mark on the x axis: ``checkpoint`` (a triangle on the axis) or ``warning`` (a dashed line)."""

    x: float
    label: str
    kind: str = "checkpoint"


@dataclass(frozen=True)
class _Scale:
    """Scale: data → pixels; ``log`` is that of y."""

    x: tuple[float, float]
    y: tuple[float, float]
    box: tuple[float, float, float, float] = field(default=(0, 0, 0, 0))  # left, top, right, bottom
    log: bool = False

    def across(self, x: float) -> float:
        low, high = self.x
        return self.box[0] + (x - low) / (high - low) * (self.box[2] - self.box[0])

    def up(self, y: float) -> float:
        low, high = self.y
        if self.log:
            low, high, y = math.log(low), math.log(high), math.log(y)
        return self.box[3] - (y - low) / (high - low) * (self.box[3] - self.box[1])


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str = "step",
    unit: str = "",
    marks: Iterable[Mark] = (),
    width: int = 720,
    height: int = 250,
    standalone: bool = False,
    log: bool = False,
    within: tuple[float, float] | None = None,
) -> Markup:
    """Draw series over one x axis; an empty string where there is nothing to draw.

    Args:
        unit: of y, written above its axis.
        width: of the drawing, in pixels at its natural size; 360 is readable on a telephone.
        standalone: include the style, for a file of its own.
        log: a logarithmic y axis; points that are not above 0 are left out.
        within: the part of the x axis to draw, by default all of it.
    """
    lines = [Line(line.name, _finite(line.points, log, within), line.dots) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    y_ticks = log_ticks(min(ys), max(ys)) if log else nice_ticks(min(ys), max(ys))
    low, high = within or (min(xs), max(xs))
    x_range = (low, high) if high > low else (low - 0.5, low + 0.5)
    x_ticks = [t for t in nice_ticks(*x_range, count=max(3, width // 110)) if x_range[0] <= t <= x_range[1]]
    labels = [rounded(tick) for tick in y_ticks]
    legend, rows = _legend(lines, unit, width)
    height += LEGEND_ROW * (rows - 1)
    box = (8 + 7 * max(map(len, labels)), 34 + LEGEND_ROW * (rows - 1), width - 14, height - 34)
    scale = _Scale(x_range, (y_ticks[0], y_ticks[-1]), box, log)
    marks = [mark for mark in marks if x_range[0] <= mark.x <= x_range[1]]
    parts = [
        *_y_axis(scale, y_ticks, labels),
        *_x_axis(scale, x_ticks, x_label),
        *legend,
        *_marks_legend(marks, bottom=height - 4),
        *_marks(marks, scale),
        *(part for number, line in enumerate(lines) for part in _line(line, number, scale)),
    ]
    style = Markup("<style>{}</style>").format(Markup(CHART_STYLE)) if standalone else ""
    described = f"{title}: " + "; ".join(_described(line) for line in lines)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {} {}" role="img" tabindex="0" '
        'aria-label="{}" data-chart="{}">{}{}</svg>'
    ).format(width, height, described, _pointer_data(lines, scale, x_label), style, Markup("").join(parts))


def _finite(points: Points, log: bool, within: tuple[float, float] | None) -> list[tuple[float, float]]:
    """Return the finite points that can be drawn, thinned to the minimum and maximum of each bucket."""
    low, high = within or (-math.inf, math.inf)
    finite = [
        (x, y)
        for x, y in points
        if y is not None and math.isfinite(x) and math.isfinite(y) and low <= x <= high and (y > 0 or not log)
    ]
    if len(finite) <= MOST_POINTS:
        return finite
    size = math.ceil(len(finite) / (MOST_POINTS // 2))
    kept = set()
    for start in range(0, len(finite), size):
        bucket = finite[start : start + size]
        kept |= {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
    return sorted(kept | {finite[0], finite[-1]})


def _described(line: Line) -> str:
    values = [y for _, y in line.points]
    return f"{line.name} from {rounded(values[0])} to {rounded(values[-1])}, least {rounded(min(values))}"


def _y_axis(scale: _Scale, ticks: Sequence[float], labels: Sequence[str]) -> Iterable[Markup]:
    left, _, right, _ = scale.box
    for tick, label in zip(ticks, labels, strict=True):
        y = round(scale.up(tick), 1)
        yield Markup('<path class="grid" d="M{} {}H{}"/>').format(left, y, right)
        yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, round(y + 4, 1), label)


def _x_axis(scale: _Scale, ticks: Sequence[float], label: str) -> Iterable[Markup]:
    left, _, right, bottom = scale.box
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(left, bottom, right)
    for tick in ticks:
        x = round(scale.across(tick), 1)
        yield Markup('<path class="axis" d="M{} {}v4"/><text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            x, bottom, x, bottom + 17, rounded(tick)
        )
    yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(right, bottom + 31, label)


def _legend(lines: Sequence[Line], unit: str, width: int) -> tuple[list[Markup], int]:
    """Return the unit and the names of the lines, and how many rows they take."""
    x, row, found = 8, 0, []
    if unit:
        found.append(Markup('<text x="{}" y="16">{}</text>').format(x, unit))
        x += LETTER * len(unit) + 14
    if len(lines) == 1 and lines[0].name == unit:
        return found, 1
    longest = (width - 8 - 18) // LETTER
    for number, line in enumerate(lines):
        name = line.name if len(line.name) <= longest else "…" + line.name[1 - longest :]
        if x > 8 and x + 18 + LETTER * len(name) > width:
            x, row = 8, row + 1
        y = 16 + LEGEND_ROW * row
        found.append(
            Markup('<path class="line s{}" d="M{} {}h14"/><text x="{}" y="{}">{}</text>').format(
                number % len(SERIES), x, y - 4, x + 18, y, name
            )
        )
        x += 18 + LETTER * len(name) + 10
    return found, row + 1


def _marks_legend(marks: Sequence[Mark], bottom: int) -> Iterable[Markup]:
    x = 8
    for kind, shape in MARKS.items():
        if any(mark.kind == kind for mark in marks):
            drawn = Markup('<path class="{}" d="M{} {}{}"/>').format(kind, x, bottom, Markup(shape))
            yield drawn + Markup('<text x="{}" y="{}">{}</text>').format(x + 16, bottom, kind)
            x += 16 + LETTER * len(kind) + 14


def _marks(marks: Sequence[Mark], scale: _Scale) -> Iterable[Markup]:
    _, top, _, bottom = scale.box
    for mark in marks:
        x = round(scale.across(mark.x), 1)
        shape = (
            Markup('<path class="warning" d="M{} {}V{}"/>').format(x, top, bottom)
            if mark.kind == "warning"
            else Markup('<path class="checkpoint" d="M{} {}l4 7h-8z"/>').format(x, bottom - 7)
        )
        yield Markup("<g>{}<title>{}</title></g>").format(shape, mark.label)


def _line(line: Line, number: int, scale: _Scale) -> Iterable[Markup]:
    number %= len(SERIES)
    places = [(round(scale.across(x), 1), round(scale.up(y), 1)) for x, y in line.points]
    if len(places) > 1:
        path = " ".join(f"{x},{y}" for x, y in places)
        yield Markup('<polyline class="line s{}" points="{}"/>').format(number, path)
    if line.dots or len(places) == 1:
        for x, y in places:
            yield Markup('<circle class="f{}" cx="{}" cy="{}" r="3"/>').format(number, x, y)


def _pointer_data(lines: Sequence[Line], scale: _Scale, x_label: str) -> str:
    """Return JSON that the page's script reads to show the values under the pointer."""
    return json.dumps(
        {
            "x": scale.x,
            "box": [round(edge, 1) for edge in scale.box],
            "label": x_label,
            "lines": [[line.name, [[x, float(f"{y:.4g}")] for x, y in line.points]] for line in lines],
        },
        separators=(",", ":"),
    )
