"""Jobs, events and checkpoints as OpenAI's API has them, and their lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from ..api import Services
from ..jobs.fine_tuned import model_id
from ..records import EventType, Job, JobEvent, Level, Status
from .job_config import Hyperparameters, hyperparameters_of
from .listing import Listing

if TYPE_CHECKING:
    from ..jobs.files import JobCheckpoint
    from ..state import State

ORGANIZATION = "mlx-lora"
# Events by which the speed of training is measured, and the key of the one that begins a session of it.
RECENT, SESSION = 20, "start:"


class JobError(BaseModel):
    """Reason that a job failed."""

    code: str
    message: str
    param: str | None = None


class MethodSettings(BaseModel):
    """Settings of a training method."""

    hyperparameters: Hyperparameters | None = None


class JobMethod(BaseModel):
    """Training method of a job."""

    type: Literal["supervised", "dpo"]
    supervised: MethodSettings | None = None


class JobProgress(BaseModel):
    """Progress of a job, beside OpenAI's keys.

    Attributes:
        queue_position: place in the queue, 0 is next; ``null`` where it does not wait.
    """

    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    loss: float | None = None
    queue_position: int | None = None


class JobObject(BaseModel):
    """Training job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None = None
    model: str
    fine_tuned_model: str | None = None
    organization_id: str = ORGANIZATION
    status: Status
    hyperparameters: Hyperparameters
    method: JobMethod
    training_file: str
    validation_file: str | None = None
    result_files: list[str] = Field(default_factory=list)
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    error: JobError | None = None
    seed: int
    integrations: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None
    mlx_lora: JobProgress


class EventObject(BaseModel):
    """Event of a job; ``data`` is empty but for metrics."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: EventType
    data: dict[str, Any]


class CheckpointMetrics(BaseModel):
    """Measurements at a checkpoint."""

    step: float | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    full_valid_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class CheckpointObject(BaseModel):
    """Checkpoint of a job, which can be asked like a model."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


JobList, EventList, CheckpointList = Listing[JobObject], Listing[EventObject], Listing[CheckpointObject]


def job_object(job: Job, services: Services, queue: Mapping[str, int] | None = None) -> JobObject:
    """Return a job as OpenAI's API has it.

    Args:
        queue: the places in the queue, by id, where many jobs are asked for.
    """
    hyperparameters, position = hyperparameters_of(job.config), None
    if job.status == "queued":
        position = services.scheduler.position(job.id) if queue is None else queue.get(job.id)
    known = {key: job.progress[key] for key in JobProgress.model_fields if job.progress.get(key) is not None}
    return JobObject(
        id=job.id,
        created_at=int(job.created_at),
        finished_at=None if job.finished_at is None else int(job.finished_at),
        model=job.model,
        fine_tuned_model=job.fine_tuned_model,
        status=job.status,
        hyperparameters=hyperparameters,
        method=JobMethod(type="supervised", supervised=MethodSettings(hyperparameters=hyperparameters)),
        training_file=job.training_file,
        validation_file=job.validation_file,
        trained_tokens=job.trained_tokens,
        estimated_finish=estimated_finish(job, services.state),
        error=None if job.error is None else JobError(**job.error),
        seed=job.seed,
        metadata=job.metadata,
        mlx_lora=JobProgress(queue_position=position, **known),
    )


def estimated_finish(job: Job, state: State) -> int | None:
    """Return the time at which a running job ends if its steps go on as the last ones did."""
    total = job.progress.get("total_steps")
    if job.status != "running" or not total:
        return None
    measured: list[tuple[float, float]] = []
    for event in state.newest_events(job.id, limit=RECENT):
        if event.key.startswith(SESSION):
            # A pause lies before it.
            break
        if isinstance(step := event.data.get("step"), (int, float)):
            measured.append((step, event.created_at))
    if not measured or measured[0][0] <= measured[-1][0]:
        return None
    (last, now), (first, then) = measured[0], measured[-1]
    return int(now + (now - then) / (last - first) * max(total - last, 0))


def event_object(event: JobEvent) -> EventObject:
    """Return an event as OpenAI's API has it."""
    return EventObject(
        id=event.id,
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def checkpoint_object(checkpoint: JobCheckpoint, job: Job) -> CheckpointObject:
    """Return a checkpoint as OpenAI's API has it."""
    return CheckpointObject(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at),
        fine_tuned_model_checkpoint=model_id(job, checkpoint.step),
        fine_tuning_job_id=job.id,
        step_number=checkpoint.step,
        metrics=CheckpointMetrics(**checkpoint.metrics),
    )
