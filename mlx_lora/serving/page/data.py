"""Runs as the page shows them: a row of each, and of one its figures, curves, gate, samples and settings."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from yaml import YAMLError

from ...config.settings_file import read_settings
from ...errors import UserError, visible
from ...evaluation.gates import judge_reports
from ...evaluation.reports import read_report
from ...evaluation.views.answer_diff import word_diff
from ...files import is_locked
from ...reporting import line_chart
from ...runs.directory import CONFIG_FILE, LOCK_FILE, METRICS_FILE, RUN_FILE, SAMPLES_FILE, read_run
from ...runs.events import (
    Evaluation,
    Event,
    Progress,
    Start,
    TrainingResult,
    TrainingWarning,
    last_of_kind,
    of_kind,
    parse_events,
    read_events,
)
from ...runs.samples import Sample, read_samples
from ...training.report import charts, key_figures
from ...user_files import open_regular
from ..records import Job
from ..settings import ServerSettings
from ..state import State
from .files import MOST_REPORT_BYTES, Found, Models, Remembered, stamp

# Bytes of the start and of the end of metrics.jsonl in which a row's figures are.
HEAD, TAIL = 2**14, 2**16


class Runs:
    """The runs below the models directory, and those of jobs."""

    def __init__(self, settings: ServerSettings, state: State, models: Models) -> None:
        self.settings, self.state, self.models = settings, state, models
        self._rows, self._events, self._reports = Remembered(5000), Remembered(4), Remembered(500)

    def rows(self) -> tuple[list[dict[str, Any]], bool]:
        """Return a row for each run, the one that changed last first; False: there are more directories than shown."""
        found = self.models.find()
        rows = [self._row(name, path) for name, path in found.runs.items()]
        rows += [self._job_row(job) for job in self.state.list_jobs()]
        return sorted(rows, key=lambda row: row["changed"], reverse=True), found.whole

    def find(self, name: str) -> tuple[dict[str, Any], Path] | None:
        """Return the row and the directory of a run by its name: a relative path, or a job's id."""
        job = self.state.find_job(name)
        if job is not None:
            return self._job_row(job), self._run_of(job)
        path = self.models.path(name)
        if path is None or not (path / RUN_FILE).is_file():
            return None
        return self._row(name, path), path

    def detail(self, name: str) -> dict[str, Any] | None:
        """Return what the page of a run holds beside its curves; ``None``: there is no such run."""
        found = self.find(name)
        if found is None:
            return None
        row, run = found
        record, config, events = _record(run), _config(run), self.events(run)
        criterion = str(config.get("keep_best_by") or "mean")
        complete = last_of_kind(events, TrainingResult)
        hashes = record.get("data_sha256") or {}
        return {
            "run": row,
            "cards": [list(map(visible, card)) for card in key_figures(events, complete, criterion)],
            "warnings": list(dict.fromkeys(event.message for event in of_kind(events, TrainingWarning))),
            "gate": self._gate(run),
            "samples": [_marked(sample) for sample in read_samples(run / SAMPLES_FILE)],
            "settings": [[key, _text(value)] for key, value in config.items() if value is not None],
            "data": [
                ["directory", _text(record.get("data"))],
                *([f"sha256 of {k}", str(v)] for k, v in hashes.items()),
            ],
            "directory": str(run),
        }

    def draw(
        self, name: str, width: int, log: bool = False, within: tuple[float, float] | None = None
    ) -> list[dict[str, str]] | None:
        """Return the charts of a run as SVG; ``None``: there is no such run."""
        found = self.find(name)
        if found is None:
            return None
        drawn = []
        for chart in charts(self.events(found[1])):
            if any(line.points for line in chart["lines"]):
                svg = line_chart(**chart, width=width, log=log, within=within)
                drawn.append({"title": chart["title"], "svg": visible(str(svg))})
        return drawn

    def events(self, run: Path) -> list[Event]:
        """Return the events of a run, read again when the file has changed."""
        file = run / METRICS_FILE
        return self._events.get(str(run), stamp(file), lambda: _events(file))

    def _row(self, name: str, run: Path) -> dict[str, Any]:
        row = self._figures(name, run)
        kind = "night" if name.endswith("/run") and "/cycles/" in name else "round" if "/rounds/" in name else "run"
        status = row["status"] if row["status"] == "finished" or not is_locked(run / LOCK_FILE) else "running"
        return {**row, "name": name, "label": name, "kind": kind, "status": status, "job": None}

    def _job_row(self, job: Job) -> dict[str, Any]:
        run = self._run_of(job)
        row = self._figures(job.id, run)
        told = {key: value for key, value in job.progress.items() if key in ("step", "total_steps", "epoch", "loss")}
        row = row if row["step"] else {**row, **told}
        changed = max(row["changed"], job.finished_at or job.started_at or job.created_at)
        label = f"{job.suffix} ({job.id})" if job.suffix else job.id
        return {
            **row,
            "name": job.id,
            "label": label,
            "kind": "job",
            "status": job.status,
            "job": job.id,
            "model": job.model,
            "changed": changed,
        }

    def _figures(self, name: str, run: Path) -> dict[str, Any]:
        """Return the figures of a run's row, read again when its files have changed."""
        marks = (stamp(run / RUN_FILE), stamp(run / METRICS_FILE))
        return self._rows.get(name, marks, lambda: _row_of(run))

    def _run_of(self, job: Job) -> Path:
        return self.settings.jobs / job.id / "run"

    def _gate(self, run: Path) -> dict[str, Any] | None:
        """Return the decision on the newest report of each suite that a run was measured on; ``None``: none was."""
        newest: dict[str, dict[str, Any]] = {}
        for mark, file in _reports_of(run, self.models.find()):
            report = self._reports.get(str(file), mark, partial(_report, file))
            if report and _is_of(report, run, self.models.directory):
                newest[report["test_name"]] = report
        if not newest:
            return None
        final = judge_reports(list(newest.values()))
        return {key: final[key] for key in ("overall_score", "target_score", "cleared_for_deployment", "reasons")} | {
            "suites": final["test_results"]
        }


def _marked(sample: Sample) -> dict[str, Any]:
    """Return a sample with both answers in pieces, (differs from the other answer, text)."""
    texts = {key: None if value is None else visible(value) for key, value in sample.items()}
    before, after = texts["before"], texts["after"]
    sides = None if before is None or after is None else word_diff(before, after)
    return {**texts, "sides": sides and {"before": sides[0], "after": sides[1]}}


def _reports_of(run: Path, found: Found) -> list[tuple[tuple[int, int], Path]]:
    """Return the stamps and the files that may be reports on a run, the newest last."""
    files = [(stamp(file), file) for file in {*found.reports, *run.glob("*.json")}]
    return sorted((mark, file) for mark, file in files if 0 < mark[1] <= MOST_REPORT_BYTES)


def _report(file: Path) -> dict[str, Any]:
    """Return a report without its answers' texts; empty for any other file."""
    try:
        return read_report(file)
    except UserError:
        return {}


def _is_of(report: dict[str, Any], run: Path, models: Path) -> bool:
    target = report.get("target")
    if not isinstance(target, str) or "://" in target:
        return False
    try:
        return run.resolve() in {(models / target).resolve(), Path(target).expanduser().resolve()}
    except (OSError, ValueError, RuntimeError):
        return False


def _row_of(run: Path) -> dict[str, Any]:
    """Return the figures of a run's row from the ends of its files."""
    record, metrics = _record(run), run / METRICS_FILE
    events = _ends(metrics)
    start, progress, evaluation = (
        last_of_kind(events, Start),
        last_of_kind(events, Progress),
        last_of_kind(events, Evaluation),
    )
    result = record.get("result") if isinstance(record.get("result"), dict) else None
    step = max((event.step for event in (start, progress, evaluation) if event is not None), default=0)
    return {
        "model": str(record.get("model") or ""),
        "status": "finished" if result else "unfinished",
        "step": step,
        "total_steps": start.total_steps if start else None,
        "epoch": progress.epoch if progress else None,
        "loss": _finite(result["loss"] if result and "loss" in result else progress.loss if progress else None),
        "validation_loss": _finite(evaluation.validation_loss if evaluation else None),
        "tokens_per_second": _finite(progress.tokens_per_second if progress else None),
        "peak_memory_gb": _finite(progress.peak_memory_gb if progress else None),
        "changed": max(stamp(run / RUN_FILE)[0], stamp(metrics)[0]) / 1e9,
    }


def _ends(file: Path) -> list[Event]:
    """Return the events at the start and at the end of a ``metrics.jsonl``."""
    try:
        with open_regular(file) as opened:
            size = opened.seek(0, 2)
            opened.seek(0)
            head = opened.read(HEAD)
            opened.seek(max(size - TAIL, min(HEAD, size)))
            tail = opened.read(TAIL)
    except OSError:
        return []
    # A line that was cut at one of the ends is no JSON, and left out.
    return parse_events([*head.split(b"\n"), *tail.split(b"\n")])


def _events(file: Path) -> list[Event]:
    try:
        return read_events(file)
    except (OSError, UnicodeDecodeError):
        return []


def _record(run: Path) -> dict[str, Any]:
    try:
        return read_run(run)
    except UserError:
        return {}


def _config(run: Path) -> dict[str, Any]:
    try:
        content = read_settings(run / CONFIG_FILE)
    except (OSError, ValueError, YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _finite(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


def _text(value: Any) -> str:
    text = (
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    )
    return visible(text)
