"""Scheduler: the queue of jobs, one thread that starts, follows and ends their workers.

Everything that it knows lies in the database and the jobs' directories. A worker outlives its server: the next one
adopts it by its lock. A job whose worker was killed goes back to the queue, and resumes from its last checkpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...errors import UserError, first_line
from ..api_error import ApiError
from ..records import ENDED, Job, NewEvent, Status
from ..settings import ServerSettings
from ..state import State
from .endings import Endings
from .events import Tail, finding_event, metrics_event
from .files import JobDirectory, Phase, job_directory
from .worker_process import PATIENCE, WorkerProcess, start_worker

log = logging.getLogger(__name__)
PHASE_OF: dict[Status, Phase] = {"validating_files": "validate", "queued": "train"}
NOT_ENDED: tuple[Status, ...] = ("validating_files", "queued", "running", "paused")
# Seconds between looks at a worker's files, between looks at nothing, and after an error, such as of a full disk.
FOLLOWING, IDLE, AFTER_ERROR = 0.1, 5.0, 2.0


class _Followed:
    """Worker and the readers of its files."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.metrics, self.findings = Tail(worker.directory.metrics), Tail(worker.directory.findings)


class Scheduler:
    """Queue of jobs: validation at once, one at a time; training one at a time, the oldest job first."""

    def __init__(self, state: State, settings: ServerSettings) -> None:
        self.state, self.settings = state, settings
        self._endings = Endings(state, settings)
        self._wake = threading.Event()
        self._ending = self._troubled = False
        self._submitting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._followed: dict[str, _Followed] = {}

    def start(self) -> None:
        """Adopt the workers that run, put jobs whose worker died back into the queue, and begin."""
        for job in self.state.list_jobs(["validating_files", "running", "cancelled"]):
            if job.status == "cancelled" and job.wish is None:
                continue
            directory = job_directory(self.settings, job.id)
            phase: Phase = "validate" if job.status == "validating_files" else "train"
            worker = WorkerProcess(directory, phase)
            if worker.alive() or job.status == "running":
                # Of a dead worker the first look settles what it left.
                self._followed[job.id] = _Followed(worker)
            elif job.status == "cancelled":
                self.state.update_job(job.id, wish=None)
        self._ending = False
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; workers go on."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # Requests, from any thread

    def submit(self, job: Job, events: Sequence[NewEvent] = ()) -> Job:
        """Record a new job, whose files are validated next.

        Args:
            events: further ones that it begins with.

        Raises:
            ApiError: 429, too many jobs are waiting.
        """
        most = self.settings.most_jobs_waiting
        with self._submitting:
            if self.state.count_jobs(["validating_files", "queued"]) >= most:
                raise ApiError(429, f"{most} jobs are waiting already; try again when one has ended", "queue_full")
            first = [
                NewEvent(f"Created fine-tuning job: {job.id}", "created"),
                NewEvent(f"Validating training file: {job.training_file}", "validating"),
            ]
            self.state.add_job(job, [*first, *events])
        self._wake.set()
        return job

    def pause(self, job_id: str) -> Job:
        """Pause a job: one that waits at once, one that runs when its worker has written a checkpoint.

        Raises:
            ApiError: 404 there is no such job, 409 it is paused or has ended.
        """
        paused = {"status": "paused", "wish": None, "events": [NewEvent("Job paused")]}
        running = {"wish": "pause", "events": [NewEvent("Pausing after this step, with a checkpoint")]}
        validating = {"wish": "pause", "events": [NewEvent("Pausing when the files are validated")]}
        return self._change(job_id, "pause", {"queued": paused, "running": running, "validating_files": validating})

    def resume(self, job_id: str) -> Job:
        """Put a paused job back into the queue.

        Raises:
            ApiError: 404 there is no such job, 409 it is not paused.
        """
        queued = {"status": "queued", "wish": None, "attempts": 0, "events": [NewEvent("Job resumed, in the queue")]}
        return self._change(job_id, "resume", {"paused": queued})

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended.

        Raises:
            ApiError: 404 there is no such job, 409 it has ended.
        """
        cancelled = {"status": "cancelled", "wish": "cancel", "finished_at": time.time()}
        return self._change(
            job_id, "cancel", {each: {**cancelled, "events": [NewEvent("Job cancelled")]} for each in NOT_ENDED}
        )

    def position(self, job_id: str) -> int | None:
        """Return a job's place in the queue, 0 for the next; ``None`` where it is not queued."""
        waiting = self.state.job_ids("queued")
        return waiting.index(job_id) if job_id in waiting else None

    def _change(self, job_id: str, what: str, changes: dict[Status, dict[str, Any]]) -> Job:
        """Change a job by its status, in one transaction of the database each."""
        for status, change in changes.items():
            job = self.state.update_job(job_id, only_if=[status], **change)
            if job is not None:
                self._wake.set()
                return job
        job = self.state.find_job(job_id)
        if job is None:
            raise ApiError(404, f"there is no job {job_id}; list the jobs to see their ids", "not_found")
        if job.status in changes:
            # It changed from one to another between two looks.
            return self._change(job_id, what, changes)
        allowed = " or ".join(changes)
        raise ApiError(409, f"the job is {job.status}, and only one that is {allowed} can {what}", "wrong_status")

    # The thread

    def _loop(self) -> None:
        while True:
            # Before the look at what may be set with it.
            self._wake.clear()
            if self._ending:
                return
            self._troubled = False
            with self._noted("the queue"):
                self._look()
            followed = FOLLOWING if self._followed else IDLE
            self._wake.wait(AFTER_ERROR if self._troubled else followed)

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """Log an error of the block, such as of a full disk: what it did not do is done at a later look."""
        try:
            yield
        except Exception as error:
            self._note(what, error)

    def _note(self, what: str, error: Exception) -> None:
        self._troubled = True
        log.warning("%s: %s; trying again", what, error, exc_info=not isinstance(error, (UserError, OSError)))

    def _look(self) -> None:
        """Follow the workers, and start those for which there is room."""
        for job_id in list(self._followed):
            with self._noted(job_id):
                self._follow(job_id)
        phases = {followed.worker.phase for followed in self._followed.values()}
        for status, phase in PHASE_OF.items():
            waiting = self.state.list_jobs([status], limit=1) if phase not in phases else []
            for job in waiting:
                with self._noted(job.id):
                    self._start(job, phase)

    def _follow(self, job_id: str) -> None:
        followed = self._followed[job_id]
        # First, so that nothing is written after the files were read for the last time.
        alive = followed.worker.alive()
        job = self.state.find_job(job_id)
        if job is not None and job.status not in ENDED:
            job = self._record(job, followed)
        if not alive:
            if job is not None:
                self._endings.settle(job, followed.worker)
            del self._followed[job_id]
            self._wake.set()
        elif job is not None and job.wish == "cancel":
            followed.worker.terminate(PATIENCE)
        elif job is not None and job.wish == "pause" and followed.worker.phase == "train":
            followed.worker.terminate()

    def _start(self, job: Job, phase: Phase) -> None:
        if job.wish == "pause" and phase == "train":
            self._endings.pause(job)
            return
        directory = job_directory(self.settings, job.id)
        changes: dict[str, Any] = {"attempts": job.attempts + 1}
        if phase == "train":
            began = job.started_at or time.time()
            changes |= {"status": "running", "started_at": began, "events": [NewEvent("Fine-tuning job started")]}
        # First, so that a worker never runs for a job that counts as waiting.
        started = self.state.update_job(job.id, only_if=[job.status], **changes)
        if started is None:
            return
        try:
            worker = start_worker(directory, phase, self._task(job, directory))
        except Exception as error:
            self._note(job.id, error)
            worker = WorkerProcess(directory, phase, failure=first_line(error))
        self._followed[job.id] = _Followed(worker)

    def _task(self, job: Job, directory: JobDirectory) -> dict[str, Any]:
        files: dict[str, Any] = {}
        for param, split, identity in (
            ("training_file", "train", job.training_file),
            ("validation_file", "valid", job.validation_file),
        ):
            if identity is not None:
                known = self.state.find_file(identity)
                name = identity if known is None else known.filename
                place = directory.data_file(split, name)
                source = (self.settings.files / identity).absolute()
                files[param] = {"source": str(source), "place": str(place), "name": name}
        config = {"backend": self.settings.backend, "seed": job.seed, "model": job.model, "config": job.config}
        return {**config, "files": files, "most_bytes": self.settings.most_upload_bytes}

    def _record(self, job: Job, followed: _Followed) -> Job:
        """Record the events that a worker has written, and the job's progress."""
        progress = dict(job.progress)
        found = [finding_event(line) for line in followed.findings.read()]
        found += [metrics_event(line, progress) for line in followed.metrics.read()]
        events = [event for event in found if event is not None]
        if not events and progress == job.progress:
            return job
        further = progress.get("step", 0) > job.progress.get("step", 0)
        changes = {"progress": progress, "attempts": 0 if further else job.attempts}
        try:
            return self.state.update_job(job.id, only_if=NOT_ENDED, events=events, **changes) or job
        except Exception:
            # Read again: what is there already is not recorded twice.
            self._followed[job.id] = _Followed(followed.worker)
            raise
