"""Run report: ``report.html`` from the run's metrics and record."""

from __future__ import annotations

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
from ..runs.events import (
    Checkpoint,
    Evaluation,
    Event,
    Progress,
    Start,
    TrainingResult,
    TrainingWarning,
    last_of_kind,
    of_kind,
    read_events,
)


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
    events = read_events(out / METRICS_FILE)
    complete = last_of_kind(events, TrainingResult)
    write_page(
        out / REPORT_FILE,
        "run.html",
        name=out.name,
        model=record["model"],
        ending=_ending(complete),
        cards=key_figures(events, complete, config.get("keep_best_by", "mean")),
        warnings=[event.message for event in of_kind(events, TrainingWarning)],
        charts=[figure for chart in charts(events) if (figure := responsive_chart(**chart))],
        commands=_commands(out),
        samples=samples,
        missing=missing,
        settings=[(key, value) for key, value in config.items() if value is not None],
        data=[("directory", record["data"]), *((f"sha256 of {k}", v) for k, v in record["data_sha256"].items())],
    )


def _ending(complete: TrainingResult | None) -> str:
    if complete is None:
        return ""
    early = f", ended early: {complete.stopped}" if complete.stopped else ""
    return f"{complete.steps:,} steps{early}."


def key_figures(
    events: Sequence[Event], complete: TrainingResult | None, criterion: str = "mean"
) -> list[tuple[str, str, str]]:
    """Return (label, value, note) of the key figures; ``criterion`` is ``keep_best_by``."""
    progress, evaluations = of_kind(events, Progress), of_kind(events, Evaluation)
    cards = []
    if complete is not None:
        first = f"{rounded(progress[0].loss)} at the start" if progress else ""
        cards.append(("training loss", rounded(complete.loss), first))
    if evaluations:
        best = min(evaluations, key=lambda event: event.kept_by(criterion))
        last = f"best, at step {best.step:,}; last {rounded(evaluations[-1].validation_loss)}"
        cards.append(("validation loss", rounded(best.validation_loss), last))
    if complete is not None and complete.seconds:
        # Measured over steps alone; evaluations and checkpoints are in the time.
        speeds = sorted(event.tokens_per_second for event in progress)
        speed = f"{speeds[len(speeds) // 2]:,.0f} tokens a second" if speeds else ""
        cards.append(("time", duration(complete.seconds), speed))
    if progress:
        cards.append(("peak memory", f"{rounded(max(event.peak_memory_gb for event in progress), 3)} GB", ""))
    if start := last_of_kind(events, Start):
        cards.append(("examples", f"{start.train_examples:,}", f"and {start.valid_examples:,} for validation"))
        cards.append(("trained parameters", f"{start.trainable_parameters:,}", start.trained_modules))
    return cards


def draw_loss(out: Path) -> Markup:
    """Return the loss of a run as an SVG file of its own."""
    return line_chart(**_losses(read_events(out / METRICS_FILE)), standalone=True)


def _line(events: Sequence[Event], name: str, key: str) -> Line:
    return Line(name, [(event.step, getattr(event, key)) for event in of_kind(events, Progress)])


def _losses(events: Sequence[Event]) -> dict[str, Any]:
    """Return the arguments of the chart of training and validation loss."""
    validation = [(event.step, event.validation_loss) for event in of_kind(events, Evaluation)]
    marks = [
        *(Mark(event.step, f"checkpoint of step {event.step}") for event in of_kind(events, Checkpoint)),
        *(Mark(event.step, event.message, "warning") for event in of_kind(events, TrainingWarning) if event.step),
    ]
    lines = [_line(events, "training", "loss"), Line("validation", validation, dots=True)]
    return {"title": "Loss", "lines": lines, "unit": "nats a token", "marks": marks}


def loss_figure(events: Sequence[Event]) -> Markup:
    """Return the chart of training and validation loss for a page; empty without measurements."""
    return responsive_chart(**_losses(events))


def _parts(events: Sequence[Event]) -> list[Line]:
    """Return the validation loss of each part, where there are several."""
    evaluations = of_kind(events, Evaluation)
    names = list(dict.fromkeys(name for event in evaluations for name in event.losses))
    points = ([(event.step, event.losses[name]) for event in evaluations if name in event.losses] for name in names)
    shown = _distinct_ends(names)
    return [Line(name, part, dots=True) for name, part in zip(shown, points, strict=True)] if len(names) > 1 else []


def _distinct_ends(names: Sequence[str]) -> list[str]:
    """Return the last parts of paths, as many as keep them apart."""
    parts = [name.split("/") for name in names]
    for length in range(1, max(map(len, parts), default=1)):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(names):
            return ends
    return list(names)


def charts(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the arguments of each chart of a run, the loss first, then what explains it."""
    line = partial(_line, events)
    speeds = [line("all", "tokens_per_second"), line("supervised", "supervised_tokens_per_second")]
    return [
        _losses(events),
        {"title": "Validation loss by part", "lines": _parts(events), "unit": "nats a token"},
        {"title": "Gradient norm", "lines": [line("largest since the last report", "grad_norm")]},
        {"title": "Learning rate", "lines": [line("learning rate", "learning_rate")], "unit": "learning rate"},
        {"title": "Speed", "lines": speeds, "unit": "tokens a second"},
        {"title": "Peak memory", "lines": [line("GB", "peak_memory_gb")], "unit": "GB"},
    ]


def _commands(out: Path) -> list[str]:
    run = shlex.quote(str(out))
    return [
        f"mlx-lora generate --target {run} --prompt 'Hello'",
        f"mlx-lora fuse --run {run} --out {run}-fused",
        f"mlx-lora export gguf --run {run} --out {run}.gguf",
    ]
