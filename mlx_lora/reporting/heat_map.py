"""Heat maps as SVG: a number in each cell, on a scale of colours that every kind of colour blindness can order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup

from .numbers import rounded

Values = Sequence[Sequence[float | None]]

# Nine steps of cividis, which rises evenly in lightness for everybody (Nuñez, Anderton and Renslow, 2018).
STEPS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#fee838")
# The step from which black letters are read better than white ones.
DARK_INK = 5
HEAT_STYLE = (
    "svg.heat{--ink:#444;--hatch:#999;font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums}"
    "@media(prefers-color-scheme:dark){svg.heat{--ink:#bbb;--hatch:#777}}"
    "svg.heat text{fill:var(--ink)}svg.heat .cell text{text-anchor:middle}"
    "svg.heat .none rect{fill:none;stroke:var(--hatch);stroke-dasharray:3 3}"
    "svg.heat .own rect{stroke:var(--ink);stroke-width:2}"
    + "".join(
        f"svg.heat .h{i} rect,svg.heat rect.h{i}{{fill:{colour}}}"
        f"svg.heat .h{i} text{{fill:{'#000' if i >= DARK_INK else '#fff'}}}"
        for i, colour in enumerate(STEPS)
    )
)
# Size of a cell; four letters such as 0.98 fit in.
CELL, ROW, GAP, LETTER = 40, 28, 2, 7
TOP, LEGEND = 40, 34


@dataclass(frozen=True)
class HeatScale:
    """Scale of colours: the last step of ``STEPS`` is the best."""

    low: float
    high: float
    lower_is_better: bool = False
    unit: str = ""

    def step(self, value: float) -> int:
        """Return the step of a value; one outside of the bounds is at their end."""
        if self.high <= self.low:
            return len(STEPS) - 1
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return min(len(STEPS) - 1, int((1 - share if self.lower_is_better else share) * len(STEPS)))


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Values,
    *,
    row_label: str = "",
    column_label: str = "",
    unit: str = "",
    bounds: tuple[float, float] | None = None,
    lower_is_better: bool = False,
    standalone: bool = False,
) -> Markup:
    """Draw a matrix at its natural size, the better values brighter; an empty string where there is nothing to draw.

    Args:
        values: [row][column]; a cell without a finite number is drawn as an empty one.
        row_label, column_label: of all rows and all columns, written once.
        unit: of the values, in the description and for the pointer.
        bounds: of the scale; by default those of the values.
        lower_is_better: as for a loss: the scale is turned round.
        standalone: include the style, for a file of its own.
    """
    found = [value for row in values for value in row if _known(value)]
    if not found:
        return Markup("")
    scale = HeatScale(*(bounds or (min(found), max(found))), lower_is_better, unit)
    left = 10 + LETTER * max(len(row_label), *map(len, rows))
    width = max(left + CELL * len(columns) + 4, 310)
    bottom = TOP + ROW * len(rows)
    parts = [
        Markup('<text x="4" y="{}">{}</text>').format(TOP - 8, row_label),
        Markup('<text x="{}" y="14">{}</text>').format(left, column_label),
        *(_heading(left + CELL * j, name) for j, name in enumerate(columns)),
        *(
            part
            for i, (name, row) in enumerate(zip(rows, values, strict=True))
            for part in _row(name, row, columns, left, TOP + ROW * i, scale)
        ),
        *_legend(bottom + 10, scale),
    ]
    style = Markup("<style>{}</style>").format(Markup(HEAT_STYLE)) if standalone else ""
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="heat" width="{}" height="{}" viewBox="0 0 {} {}" role="img" '
        'aria-label="{}">{}{}</svg>'
    ).format(
        width,
        bottom + LEGEND,
        width,
        bottom + LEGEND,
        _described(title, rows, columns, values, unit),
        style,
        Markup("").join(parts),
    )


def short(value: float) -> str:
    """Return a number that fits in a cell: ``1.00``, ``0.98``, ``12.3``, ``1e-4``; never 1.00 for less than 1."""
    if value and abs(value) < 0.005:
        return rounded(value, 1)
    if abs(value) >= 1000:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    text = f"{value:.2f}"
    return "0.99" if text == "1.00" and value < 1 else text


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _heading(x: float, name: str) -> Markup:
    fits = name if len(name) * LETTER <= CELL else f"{name[: CELL // LETTER - 1]}…"
    return Markup('<text x="{}" y="{}" text-anchor="middle">{}<title>{}</title></text>').format(
        x + CELL / 2, TOP - 8, fits, name
    )


def _row(
    name: str, values: Sequence[float | None], columns: Sequence[str], left: float, y: float, scale: HeatScale
) -> Iterable[Markup]:
    """Return a row's name and its cells; the cell of its own column is framed."""
    yield Markup('<text x="4" y="{}">{}</text>').format(y + ROW / 2 + 4, name)
    for j, (column, value) in enumerate(zip(columns, values, strict=True)):
        kind, text, said = "none", "–", "not measured"
        if _known(value):
            kind, text, said = f"h{scale.step(value)}", short(value), f"{rounded(value)} {scale.unit}".strip()
        x = left + CELL * j
        yield Markup(
            '<g class="cell {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="3"/>'
            '<text x="{}" y="{}">{}</text></g>'
        ).format(
            f"{kind} own" if column == name else kind,
            f"{name}, {column}: {said}",
            *(x + GAP / 2, y + GAP / 2, CELL - GAP, ROW - GAP),
            *(x + CELL / 2, y + ROW / 2 + 4),
            text,
        )


def _legend(y: float, scale: HeatScale) -> Iterable[Markup]:
    ends = (scale.high, scale.low) if scale.lower_is_better else (scale.low, scale.high)
    worst, best = f"{short(ends[0])} worse", f"{short(ends[1])} better"
    yield Markup('<text x="4" y="{}">{}</text>').format(y + 11, worst)
    x = 12 + LETTER * len(worst)
    for number in range(len(STEPS)):
        yield Markup('<rect class="h{}" x="{}" y="{}" width="10" height="14"/>').format(number, x + 10 * number, y)
    yield Markup('<text x="{}" y="{}">{}</text>').format(x + 10 * len(STEPS) + 6, y + 11, best)


def _described(title: str, rows: Sequence[str], columns: Sequence[str], values: Values, unit: str) -> str:
    """Return the description for those who do not see it: the least and the largest value of each row."""
    said = []
    for name, row in zip(rows, values, strict=True):
        known = [(value, column) for value, column in zip(row, columns, strict=True) if _known(value)]
        if known:
            (least, at), (most, _) = min(known), max(known)
            said.append(f"{name}: {rounded(least)} ({at}) to {rounded(most)}")
    return f"{title}{f', {unit}' if unit else ''}: " + "; ".join(said)
