"""MLflow: measurements in the store that ``MLFLOW_TRACKING_URI`` names, by default ``mlflow.db`` in the directory."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import time
from typing import Any

# Its use is not reported, and a server that does not answer is given up within seconds, not within minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from .tracker import PROJECT, TrackedRun, Warn

TAG = "mlx_lora.run_id"


class MlflowTracker:
    """Run of an MLflow experiment."""

    def __init__(self, run: TrackedRun, warn: Warn) -> None:
        self.run, self.warn = run, warn
        self.client: Any = None
        self.id = ""

    def open(self) -> int:
        """Find or create the run, and return the last step that is there."""
        # It tells how it makes its tables.
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self.client = MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(experiment)
        number = self.client.create_experiment(experiment) if found is None else found.experiment_id
        runs = self.client.search_runs([number], f"tags.`{TAG}` = '{self.run.id}'")
        if runs:
            self.id = runs[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return max((self._last_step(metric) for metric in runs[0].data.metrics), default=0)
        self.id = self.client.create_run(number, run_name=self.run.name, tags={TAG: self.run.id}).info.run_id
        settings = [Param(key, str(value)[:500]) for key, value in self.run.config.items()]
        self.client.log_batch(self.id, params=settings)
        return 0

    def _last_step(self, metric: str) -> int:
        return max(each.step for each in self.client.get_metric_history(self.id, metric))

    def log(self, step: int, measured: dict[str, float]) -> None:
        """Record all measurements of a step, in one transaction."""
        when = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, when, step) for name, value in measured.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Record that the run has ended."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def _name(measurement: str) -> str:
    """Return a name that MLflow accepts: a clean relative path of letters, digits and ``_-. :``."""
    return posixpath.normpath(re.sub(r"[^\w\-./: ]", "_", measurement.replace("//", "/"), flags=re.ASCII))


connect = MlflowTracker
