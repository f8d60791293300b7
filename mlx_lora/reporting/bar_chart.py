"""Bar chart of a benchmark as SVG: a bar for each ratio, the arithmetic limit marked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

WIDTH, LABEL, ROW, BAR = 720, 250, 54, 13
# The ratio at the right edge.
SCALE = 1.2
TIME, MEMORY = "#2a6f97", "#d1a03d"


def picture(results: Sequence[dict[str, Any]], rival: str) -> str:
    """Draw an SVG: for each comparison our time and memory as shares of the baseline's, which is 1."""

    def across(ratio: float) -> float:
        return LABEL + min(ratio, SCALE) / SCALE * (WIDTH - LABEL - 60)

    height = ROW * len(results) + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-size="13">mlx-lora / {html.escape(rival)}, smaller is better: '
        f'<tspan fill="{TIME}">time</tspan>, <tspan fill="{MEMORY}">peak memory above the weights</tspan>, '
        "| what the arithmetic allows</text>",
    ]
    for number, result in enumerate(results):
        top = 34 + number * ROW
        parts.append(f'<text x="8" y="{top + 14}" font-size="12">{html.escape(result["data"])}</text>')
        parts.append(f'<text x="8" y="{top + 29}" font-size="10" fill="#666">{html.escape(result["shape"])}</text>')
        for key, colour, y in (("step_time_ratio", TIME, top), ("peak_memory_ratio", MEMORY, top + BAR + 3)):
            end = across(result[key])
            parts.append(
                f'<rect x="{LABEL}" y="{y + 4}" width="{end - LABEL:.1f}" height="{BAR}" fill="{colour}"/>'
                f'<text x="{end + 5:.1f}" y="{y + 15}" font-size="11">{result[key]:.2f}</text>'
            )
        limit = across(result["arithmetic_ratio"])
        parts.append(f'<path d="M{limit:.1f} {top + 1}v{BAR + 6}" stroke="#222" stroke-width="2"/>')
    one = across(1.0)
    parts.append(f'<path d="M{one:.1f} 32V{height - 20}" stroke="#999" stroke-dasharray="3 3"/>')
    name = html.escape(rival)
    parts.append(f'<text x="{one:.1f}" y="{height - 6}" font-size="11" text-anchor="middle">1 = {name}</text></svg>')
    return "\n".join(parts) + "\n"
