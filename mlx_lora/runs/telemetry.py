"""Telemetry of a run: ``telemetry.jsonl``, a line for each measurement, in the shape that other programs collect.

A line is ``{"run_id", "metric", "value", "step", "timestamp", "metadata"}``; ``metadata`` has the ``event`` that the
measurement belongs to (``start``, ``progress``, ``complete``, ``validation complete``), the run's name, and the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..config import TrainingConfig
from ..errors import UserError
from ..files import writing
from .directory import RUN_FILE, RUN_ID, TELEMETRY_FILE, read_run
from .events import Event, Listener, Progress, Start, TrainingResult

# Metrics of the suite claims_validation, and the names that they have here.
VALIDATION = {
    "schema": "schema_compliance",
    "citation": "citation_accuracy",
    "entailment": "mean_entailment",
    "similarity": "mean_similarity",
}


def append_measurements(
    file: Path, run_id: str, event: str, step: int, measured: Mapping[str, float], **metadata: Any
) -> None:
    """Append the measurements of an event.

    Raises:
        UserError: the file system refuses.
    """
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = [
        {
            "run_id": run_id,
            "metric": name,
            "value": value,
            "step": step,
            "timestamp": when,
            "metadata": {"event": event, **metadata},
        }
        for name, value in measured.items()
    ]
    with writing(file), open(file, "a", encoding="utf-8") as opened:
        opened.write("".join(json.dumps(line) + "\n" for line in lines))


def telemetry(file: Path, run_id: str, config: TrainingConfig, name: str) -> Listener:
    """Return a listener that writes the telemetry of a run."""

    def write(event: Event) -> None:
        if isinstance(event, Start):
            about = {"base_model": event.model, "lora_rank": config.lora_rank, "epochs": config.num_epochs}
            append(event.event, event.step, {"dataset_size": event.train_examples}, **about)
        elif isinstance(event, Progress):
            measured = {"epoch": event.epoch, "loss": event.loss}
            append(event.event, event.step, measured, epoch=event.epoch)
        elif isinstance(event, TrainingResult):
            measured = {"final_loss": event.loss, "duration_ms": round(event.seconds * 1000)}
            append(event.event, event.steps, measured)

    append = partial(append_measurements, file, run_id, name=name)

    return write


def record_validation(target: str, metrics: Mapping[str, Any], claims: int) -> None:
    """Append a validation of claims to the telemetry of the run that was validated, if ``target`` is its directory.

    Args:
        metrics: of the suite's report.
        claims: number of claims that were judged.
    """
    directory = Path(target)
    file = directory / TELEMETRY_FILE
    # A generation never changes, and has no telemetry.
    if not (file.is_file() and (directory / RUN_FILE).is_file()):
        return
    # An evaluation does not depend on a run directory that may be read-only.
    with suppress(UserError):
        run = read_run(directory)
        result = run.get("result")
        step = result.get("best_step", 0) if isinstance(result, dict) else 0
        measured = {name: float(metrics[stage]) for stage, name in VALIDATION.items()}
        about = {"claim_count": claims, "entailment_method": metrics.get("entailment_method")}
        append_measurements(file, str(run.get(RUN_ID)), "validation complete", step, measured, **about)
