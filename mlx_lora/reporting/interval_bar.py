"""Interval bars as SVG: a value, its confidence interval and a threshold on a common scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup

from .numbers import nice_ticks

BAR_STYLE = (
    "svg.bar{width:100%;min-width:5rem;height:14px;display:block;overflow:visible}"
    "svg.bar .scale{fill:var(--edge)}svg.bar .interval{fill:var(--dim)}svg.bar .value{fill:var(--ink)}"
    "svg.bar .mark{fill:var(--warn)}svg.bar .zero{fill:var(--dim)}"
)
Scale = tuple[float, float]


def common_scale(values: Iterable[float | None], high: float | None = None) -> Scale:
    """Return round bounds around all finite values.

    Args:
        high: upper bound that all values share, such as 1 for rates.
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    if high is not None:
        found.append(high)
    ticks = nice_ticks(min(found, default=0.0), max(found, default=1.0))
    return ticks[0], ticks[-1] if high is None else high


def interval_bar(value: float, interval: Scale, scale: Scale, mark: float | None = None, zero: bool = False) -> Markup:
    """Draw a bar as wide as its container; what is outside of the scale is drawn at its end.

    Args:
        mark: threshold, drawn as a line.
        zero: draw a line at 0 as well, for differences.
    """
    low, high = scale

    def place(x: float) -> float:
        return round(100 * min(1.0, max(0.0, (x - low) / (high - low))), 2)

    start, end = map(place, interval)
    parts = [
        Markup('<rect class="scale" y="6" width="100%" height="2"/>'),
        Markup('<rect class="interval" x="{}%" y="4" width="{}%" height="6" rx="2"/>').format(
            start, round(end - start, 2)
        ),
        Markup('<circle class="value" cx="{}%" cy="7" r="4"/>').format(place(value)),
    ]
    if zero:
        parts.insert(1, Markup('<rect class="zero" x="{}%" width="1" height="14"/>').format(place(0.0)))
    if mark is not None:
        parts.append(Markup('<rect class="mark" x="{}%" width="2" height="14"/>').format(place(mark)))
    # The numbers are beside the bar.
    return Markup('<svg class="bar" aria-hidden="true" height="14">{}</svg>').format(Markup("").join(parts))
