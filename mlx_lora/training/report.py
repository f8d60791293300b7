"""``report.html``: a run as a page that needs nothing but itself."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomic

WIDTH, HEIGHT, MARGIN = 640, 180, 48
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}"
    "td{padding:.15rem 1rem .15rem 0;vertical-align:top}pre{background:#f4f4f2;padding:.6rem;white-space:pre-wrap}"
    "svg{width:100%;height:auto}.w{color:#a33}"
)
COLOURS = ("#2a6f97", "#d1495b")

Points = list[tuple[float, float]]


def chart(title: str, series: dict[str, Points]) -> str:
    """An SVG of lines over steps, scaled to what they show; empty where there is nothing."""
    points = [p for line in series.values() for p in line]
    if not points:
        return ""
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in zip(*points, strict=True))
    y0, y1 = (y0, y1) if y1 > y0 else (y0 - 0.5, y1 + 0.5)

    def place(x: float, y: float) -> str:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y - y0) / (y1 - y0)
        return f"{MARGIN + across * (WIDTH - 2 * MARGIN):.1f},{HEIGHT - 24 - up * (HEIGHT - 48):.1f}"

    lines, legend = [], []
    for (name, line), colour in zip(series.items(), COLOURS, strict=False):
        if line:
            path = " ".join(place(*point) for point in line)
            lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
            legend.append(f'<tspan fill="{colour}">{html.escape(name)}  </tspan>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f'<text x="{MARGIN}" y="14" font-size="12">{"".join(legend)}</text>'
        f'<text x="2" y="28" font-size="11">{y1:.4g}</text><text x="2" y="{HEIGHT - 22}" font-size="11">{y0:.4g}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 6}" font-size="11">step {x0:g}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 6}" font-size="11" text-anchor="end">step {x1:g}</text>'
        f"{''.join(lines)}</svg>"
    )


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The events of a run; a line cut short by a power cut is left out."""
    events = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def write_report(
    out: Path, config: dict[str, Any], record: dict[str, Any], samples: Sequence[tuple[str, str, str]]
) -> None:
    """Write ``report.html`` from the run's own files.

    Args:
        samples: (prompt, reference answer, the adapter's answer).
    """
    events = read_metrics(out / "metrics.jsonl")
    progress = [e for e in events if e["event"] == "progress"]
    evaluations = [(e["step"], e["validation_loss"]) for e in events if e["event"] == "evaluation"]

    def line(key: str) -> Points:
        return [(e["step"], e[key]) for e in progress]

    charts = [
        ("Loss", {"training": line("loss"), "validation": evaluations}),
        ("Learning rate", {"learning rate": line("learning_rate")}),
        ("Gradient norm", {"largest gradient norm": line("grad_norm")}),
        ("Speed", {"tokens a second": line("tokens_per_second"), "supervised": line("supervised_tokens_per_second")}),
        ("Memory", {"peak, GB": line("peak_memory_gb")}),
    ]
    warnings = [e["message"] for e in events if e["event"] == "warning"]
    complete: dict[str, Any] = next((e for e in reversed(events) if e["event"] == "complete"), {})
    result = [(k.replace("_", " "), v) for k, v in complete.items() if k not in ("event", "time") and v is not None]
    start: dict[str, Any] = next((e for e in events if e["event"] == "start"), {})
    result += [("trained", start["trained_modules"])] if "trained_modules" in start else []
    data = [("directory", record["data"]), *((f"sha256 of {k}", v) for k, v in record["data_sha256"].items())]
    shown = "".join(f"<pre>{html.escape(p)}</pre>{_table([('reference', r), ('adapter', a)])}" for p, r, a in samples)
    body = [
        f"<h1>{html.escape(out.name)}: LoRA on {html.escape(record['model'])}</h1>",
        _table(result),
        *(f'<p class="w">{html.escape(w)}</p>' for w in warnings),
        *(f"<h2>{title}</h2>{chart(title, series)}" for title, series in charts),
        *(("<h2>Samples</h2>", shown) if samples else ()),
        "<h2>Settings</h2>",
        _table([(k, v) for k, v in config.items() if v is not None]),
        "<h2>Data</h2>",
        _table(data),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(out.name)}</title>'
    write_atomic(out / "report.html", f"{page}<style>{STYLE}</style><body>{''.join(body)}</body></html>\n")
