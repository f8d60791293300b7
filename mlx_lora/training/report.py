"""Run report: ``report.html`` from the run's metrics and record."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..reporting import Line, Mark, line_chart, write_page
from ..reporting.numbers import duration, rounded
from ..reporting.pages import responsive_chart
from ..runs.directory import METRICS_FILE, REPORT_FILE
from ..user_files import read_text

Event = dict[str, Any]


def read_metrics(file: Path) -> list[Event]:
    """Return the events of a run; a line truncated by a power cut is left out."""
    events = []
    for line in read_text(file, 2**30).splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def write_report(
    out: Path,
    config: dict[str, Any],
    record: dict[str, Any],
    samples: Sequence[tuple[str, str, str]],
    missing: str | None = None,
) -> None:
    """Write ``report.html`` from the run's own files.

    Args:
        samples: (prompt, reference answer, the adapter's answer).
        missing: the reason that there are none.
    """
    by_kind = _by_kind(read_metrics(out / METRICS_FILE))
    complete = (by_kind.get("complete") or [{}])[-1]
    write_page(
        out / REPORT_FILE,
        "run.html",
        name=out.name,
        model=record["model"],
        ending=_ending(complete),
        cards=_cards(by_kind, complete),
        warnings=[event["message"] for event in by_kind.get("warning", [])],
        charts=_charts(by_kind),
        commands=_commands(out),
        samples=samples,
        missing=missing,
        settings=[(key, value) for key, value in config.items() if value is not None],
        data=[("directory", record["data"]), *((f"sha256 of {k}", v) for k, v in record["data_sha256"].items())],
    )


def _ending(complete: Event) -> str:
    if not complete:
        return ""
    early = f", ended early: {complete['stopped']}" if complete.get("stopped") else ""
    return f"{complete['steps']:,} steps{early}."


def _cards(by_kind: dict[str, list[Event]], complete: Event) -> list[tuple[str, str, str]]:
    """Return (label, value, note) of the key figures."""
    progress, evaluations = by_kind.get("progress", []), by_kind.get("evaluation", [])
    start = (by_kind.get("start") or [{}])[-1]
    cards = []
    if "loss" in complete:
        first = f"{rounded(progress[0]['loss'])} at the start" if progress else ""
        cards.append(("training loss", rounded(complete["loss"]), first))
    if evaluations:
        best = min(evaluations, key=lambda event: event["validation_loss"])
        last = f"best, at step {best['step']:,}; last {rounded(evaluations[-1]['validation_loss'])}"
        cards.append(("validation loss", rounded(best["validation_loss"]), last))
    if complete.get("seconds"):
        # Measured over steps alone; evaluations and checkpoints are in the time.
        speeds = sorted(event["tokens_per_second"] for event in progress)
        speed = f"{speeds[len(speeds) // 2]:,.0f} tokens a second" if speeds else ""
        cards.append(("time", duration(complete["seconds"]), speed))
    if progress:
        peak = max(event["peak_memory_gb"] for event in progress)
        cards.append(("peak memory", f"{rounded(peak, 3)} GB", ""))
    if "train_examples" in start:
        valid = f"and {start['valid_examples']:,} for validation"
        cards.append(("examples", f"{start['train_examples']:,}", valid))
    if "trainable_parameters" in start:
        cards.append(("trained parameters", f"{start['trainable_parameters']:,}", start.get("trained_modules", "")))
    return cards


def draw_loss(out: Path) -> Markup:
    """Return the loss of a run as an SVG file of its own."""
    losses, marks = _losses(_by_kind(read_metrics(out / METRICS_FILE)))
    return line_chart("Loss", losses, unit="nats a token", marks=marks, standalone=True)


def _by_kind(events: Sequence[Event]) -> dict[str, list[Event]]:
    kinds: dict[str, list[Event]] = {}
    for event in events:
        kinds.setdefault(event["event"], []).append(event)
    return kinds


def _line(by_kind: dict[str, list[Event]], name: str, key: str) -> Line:
    progress = by_kind.get("progress", [])
    return Line(name, [(event["step"], event[key]) for event in progress if event.get(key) is not None])


def _losses(by_kind: dict[str, list[Event]]) -> tuple[list[Line], list[Mark]]:
    validation = [(event["step"], event["validation_loss"]) for event in by_kind.get("evaluation", [])]
    marks = [
        *(Mark(event["step"], f"checkpoint of step {event['step']}") for event in by_kind.get("checkpoint", [])),
        *(
            Mark(event["step"], event["message"], "warning")
            for event in by_kind.get("warning", [])
            if event.get("step")
        ),
    ]
    return [_line(by_kind, "training", "loss"), Line("validation", validation, dots=True)], marks


def _charts(by_kind: dict[str, list[Event]]) -> list[Markup]:
    """Return the loss first, then what explains it; a chart without anything to show is left out."""
    line = partial(_line, by_kind)
    losses, marks = _losses(by_kind)
    drawn = [
        responsive_chart("Loss", losses, unit="nats a token", marks=marks),
        responsive_chart("Gradient norm", [line("largest since the last report", "grad_norm")]),
        responsive_chart("Learning rate", [line("learning rate", "learning_rate")], unit="learning rate"),
        responsive_chart(
            "Speed",
            [line("all", "tokens_per_second"), line("supervised", "supervised_tokens_per_second")],
            unit="tokens a second",
        ),
        responsive_chart("Peak memory", [line("GB", "peak_memory_gb")], unit="GB"),
    ]
    return [figure for figure in drawn if figure]


def _commands(out: Path) -> list[str]:
    run = shlex.quote(str(out))
    return [
        f"mlx-lora generate --target {run} --prompt 'Hello'",
        f"mlx-lora fuse --run {run} --out {run}-fused",
        f"mlx-lora export gguf --run {run} --out {run}.gguf",
    ]
