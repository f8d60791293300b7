"""Number formatting: axis ticks, rounded values, durations."""

from __future__ import annotations

import math


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` multiples of 1, 2 or 5 times a power of ten that enclose ``low`` to ``high``.

    Heckbert, "Nice numbers for graph labels", Graphics Gems (1990). Equal bounds are widened.
    """
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    step = _nice((high - low) / max(count - 1, 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about ``count`` ticks of a logarithmic axis that enclose ``low`` to ``high``, which are above 0.

    They are 1, 2 and 5 times the powers of ten where these are few enough, else powers of ten.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    start = max(i for i, tick in enumerate(fine) if tick <= low * (1 + 1e-9))
    end = min((i for i, tick in enumerate(fine) if tick >= high * (1 - 1e-9)), default=len(fine) - 1)
    ticks = fine[start : max(end, start + 1) + 1]
    if len(ticks) <= count:
        return ticks
    step = math.ceil((last - first) / count)
    return [10.0**power for power in range(first, last + step, step)]


def _nice(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return power * min((1, 2, 5, 10), key=lambda nice: abs(math.log(value / power / nice)))


def rounded(value: float | int | None, digits: int = 4) -> str:
    """Return a number with ``digits`` significant digits, e.g. ``12,340``, ``0.3921``, ``2e-4``."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e15:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if abs(value) >= 10 ** (digits - 1) or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units, e.g. ``2 h 5 min``, ``48 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"
