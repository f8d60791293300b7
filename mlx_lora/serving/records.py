"""What the server's database holds: uploaded files, jobs, and the events of jobs."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")
Level = Literal["info", "warn", "error"]


def new_id(prefix: str) -> str:
    """Return an id such as ``ftjob-`` and 24 random hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(12)}"


@dataclass
class UploadedFile:
    """Uploaded file; its bytes lie in the state directory under ``files/ID``.

    Attributes:
        filename: as the client called it; never part of a path.
    """

    id: str
    filename: str
    bytes: int
    purpose: str
    sha256: str
    created_at: float = field(default_factory=time.time)


@dataclass
class Job:
    """Training job.

    Attributes:
        contract: the contract that it came by: ``train`` (``/v1/train``) or ``fine_tuning``.
        model: the base, as the client named it.
        request: the request's body, as it came.
        config: keys of ``TrainingConfig`` that the request asks for, and the base and the adapter that it starts from.
        training_file, validation_file: ids of uploaded files; rows of ``/v1/train`` become one too.
        error: ``{"code", "message", "param"}`` of a failed job.
        progress: ``step``, ``total_steps``, ``epoch``, ``loss`` and ``tokens`` so far.
        wish: what a client has asked for that is not yet so: ``pause`` or ``cancel``.
        attempts: starts of the worker since the last step that it finished.
        fine_tuned_model: the model's id for chat, once it is trained.
    """

    id: str
    contract: Literal["train", "fine_tuning"]
    model: str
    request: dict[str, Any]
    config: dict[str, Any]
    training_file: str
    status: Status = "validating_files"
    validation_file: str | None = None
    suffix: str | None = None
    seed: int = 0
    metadata: dict[str, str] | None = None
    created_at: float = field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    error: dict[str, Any] | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    trained_tokens: int | None = None
    fine_tuned_model: str | None = None
    wish: str | None = None
    attempts: int = 0


@dataclass
class JobEvent:
    """Event of a job.

    Attributes:
        sequence: ascending over all jobs; the ``id:`` of server-sent events.
        type: ``message`` or ``metrics``.
        key: names the event within its job: one that comes again after a resume is not recorded twice.
    """

    sequence: int
    id: str
    job_id: str
    created_at: float
    level: Level
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]
    key: str
