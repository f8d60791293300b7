"""Records of the server's database: uploaded files, jobs, and the events of jobs."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")
Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]
# Purpose of every uploaded file.
PURPOSE = "fine-tune"


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
        progress: ``step`` (the furthest so far), ``total_steps``, ``epoch`` and ``loss``, later ``valid_loss``; at the
            end ``tokens`` and ``seconds`` as well.
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


@dataclass(frozen=True)
class NewEvent:
    """Event that is to be recorded; of type ``metrics`` where it has data.

    Attributes:
        key: as in :class:`JobEvent`; random by default, for an event that happens once.
    """

    message: str
    key: str = field(default_factory=lambda: new_id("message"))
    level: Level = "info"
    data: dict[str, Any] | None = None
    created_at: float = field(default_factory=time.time)

    @property
    def type(self) -> EventType:
        """The event's type."""
        return "message" if self.data is None else "metrics"

    @property
    def text(self) -> str:
        """The data as JSON."""
        return json.dumps(self.data or {}, ensure_ascii=False)


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
    type: EventType
    message: str
    data: dict[str, Any]
    key: str
