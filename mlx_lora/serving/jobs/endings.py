"""Endings of a job's workers: from what a worker left to the job's next status."""

from __future__ import annotations

import time
from typing import Any

from ..records import ENDED, Job, NewEvent, Status
from ..settings import ServerSettings
from ..state import State
from .files import Outcome, read_outcome
from .fine_tuned import model_id
from .worker_process import WorkerProcess


class Endings:
    """Changes of a job's status when its worker has ended; each is one transaction, and may be repeated."""

    def __init__(self, state: State, settings: ServerSettings) -> None:
        self.state, self.settings = state, settings

    def settle(self, job: Job, worker: WorkerProcess) -> None:
        """Bring a job to the status that its worker's end means."""
        if job.status in ENDED:
            self.state.update_job(job.id, wish=None)
            return
        outcome = None if worker.failure else read_outcome(worker.directory)
        if outcome is None or outcome.phase != worker.phase:
            self._retry_or_fail(job, worker.ending())
        elif outcome.status == "failed":
            self._fail(job, outcome.error or {})
        elif outcome.status == "interrupted":
            self._requeue(job, "it was asked to end", attempts=0)
        elif worker.phase == "validate":
            self._validated(job)
        else:
            self._succeed(job, outcome)

    def pause(self, job: Job) -> None:
        """Pause a job that has no worker."""
        self.state.update_job(job.id, [job.status], [NewEvent("Job paused")], status="paused", wish=None, attempts=0)

    def _validated(self, job: Job) -> None:
        event = NewEvent("Files validated, moving job to queued state", "validated")
        now = self.state.update_job(job.id, [job.status], [event], status="queued", attempts=0)
        if now is not None and now.wish == "pause":
            self.pause(now)

    def _succeed(self, job: Job, outcome: Outcome) -> None:
        result = outcome.result or {}
        name = model_id(job)
        measured = {
            "step": result.get("steps"),
            "loss": result.get("loss"),
            "valid_loss": result.get("validation_loss"),
        }
        measured |= {"tokens": result.get("tokens"), "seconds": result.get("seconds")}
        progress = {**job.progress, **{key: value for key, value in measured.items() if value is not None}}
        events = [
            NewEvent(f"New fine-tuned model created: {name}", "created_model"),
            NewEvent("The job has successfully completed", "succeeded"),
        ]
        if result.get("stopped"):
            events.insert(0, NewEvent(f"Training ended early: {result['stopped']}", level="warn"))
        self.state.update_job(
            job.id,
            [job.status],
            events,
            status="succeeded",
            wish=None,
            finished_at=time.time(),
            fine_tuned_model=name,
            trained_tokens=result.get("tokens"),
            progress=progress,
        )

    def _fail(self, job: Job, error: dict[str, Any]) -> None:
        known = {"code": error.get("code") or "server_error", "param": error.get("param")}
        message = str(error.get("message"))
        events = [NewEvent(message, level="error"), NewEvent("The job failed", "failed", "error")]
        self.state.update_job(
            job.id,
            [job.status],
            events,
            status="failed",
            wish=None,
            finished_at=time.time(),
            error={**known, "message": message},
        )

    def _retry_or_fail(self, job: Job, why: str) -> None:
        """Start a job's worker again when its turn comes, unless it has got nowhere too often."""
        if job.attempts >= self.settings.most_attempts and job.wish != "pause":
            what = f"the worker was started {job.attempts} times without getting further: {why}"
            self._fail(job, {"code": "server_error", "message": what})
        else:
            self._requeue(job, why, job.attempts)

    def _requeue(self, job: Job, why: str, attempts: int) -> None:
        """Start a job's worker again when its turn comes, or pause it where that is wished."""
        if job.wish == "pause" and job.status == "running":
            self.pause(job)
            return
        status: Status = "validating_files" if job.status == "validating_files" else "queued"
        event = NewEvent(f"The worker is started again: {why}", level="warn")
        self.state.update_job(job.id, [job.status], [event], status=status, attempts=attempts)
