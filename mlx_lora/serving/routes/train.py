"""The published training contract: start a job with its rows in the request, and poll it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from ...config.dialects import printable_name
from ...data.schema import MOST_WEIGHT
from ...files import remove_any, write_atomic
from ...sources.claims import citation_spans
from ..api import Call, Route
from ..api_error import ApiError
from ..records import PURPOSE, Job, NewEvent, UploadedFile, new_id
from .files import record_file
from .fine_tuning import find_job, start_config
from .job_config import StrictTypes, checked_config, name_part

CITATION_WEIGHT = "citation_validity_weight"


class LoraConfig(StrictTypes):
    """Shape of the adapter."""

    rank: Annotated[int, Field(ge=1, le=4096)] | None = None
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None


class TrainingSettings(StrictTypes):
    """Settings of the training; a step is one batch."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    epochs: Annotated[int, Field(ge=1, le=10**6)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=10**6)] | None = None
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] | None = None


class LossConfig(BaseModel):
    """Settings of the loss; those of other objectives are recorded and have no effect."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    citation_validity_weight: Annotated[float, Field(gt=0, le=MOST_WEIGHT)] | None = None


class TrainingRow(StrictTypes):
    """Prompt and the answer to learn."""

    prompt: Annotated[str, Field(min_length=1)]
    completion: Annotated[str, Field(min_length=1)]


class TrainRequest(StrictTypes):
    """Request for a job with its rows."""

    experiment_name: Annotated[str, Field(min_length=1, max_length=512)]
    base_model: Annotated[str, Field(min_length=1, max_length=500)]
    lora_config: LoraConfig = Field(default_factory=LoraConfig)
    training_config: TrainingSettings = Field(default_factory=TrainingSettings)
    loss_config: LossConfig = Field(default_factory=LossConfig)
    training_data: Annotated[list[TrainingRow], Field(min_length=1)]


class JobStarted(BaseModel):
    """Id of a job, with which it is polled."""

    job_id: str


class RunningJob(BaseModel):
    """Job that runs, waits or is paused."""

    status: Literal["running"] = "running"
    epoch: int
    step: int
    loss: float | None


class CompletedJob(BaseModel):
    """Job that has trained its model."""

    status: Literal["completed"] = "completed"
    final_loss: float | None
    duration_ms: int
    model_id: str


class FailedJob(BaseModel):
    """Job that failed or was cancelled."""

    status: Literal["failed"] = "failed"
    error: str


class JobStatus(RootModel[RunningJob | CompletedJob | FailedJob]):
    """State of a job, in three words."""


def start_training(call: Call) -> JobStarted:
    """Start a job."""
    body: TrainRequest = call.body
    _check_rows(body.training_data)
    config = start_config(call, body.base_model, _config(body), status=422)
    weight = body.loss_config.citation_validity_weight
    rows = [_row(row, weight or 1.0) for row in body.training_data]
    file = _store(call, f"{name_part(body.experiment_name) or 'training'}.jsonl", rows)
    job = Job(
        id=new_id("ftjob"),
        contract="train",
        model=body.base_model,
        # The rows are in the file.
        request=body.model_dump(exclude={"training_data"}, exclude_unset=True),
        config=config,
        training_file=file.id,
        suffix=name_part(body.experiment_name),
        metadata={"experiment_name": body.experiment_name},
    )
    try:
        call.services.scheduler.submit(job, _loss_events(body.loss_config, rows))
    except ApiError:
        call.services.state.delete_file(file.id)
        remove_any(call.services.settings.files / file.id)
        raise
    return JobStarted(job_id=job.id)


def _config(body: TrainRequest) -> dict[str, Any]:
    lora, training = body.lora_config, body.training_config
    named = {
        "lora_rank": lora.rank,
        "lora_alpha": lora.alpha,
        "learning_rate": training.learning_rate,
        "num_epochs": training.epochs,
        "batch_size": training.batch_size,
        "warmup_steps": training.warmup_steps,
        "gradient_accumulation_steps": 1,
        "run_name": printable_name(body.experiment_name) or None,
    }
    return checked_config({key: value for key, value in named.items() if value is not None}, status=422)


def _check_rows(rows: list[TrainingRow]) -> None:
    for number, row in enumerate(rows):
        for key, text in (("prompt", row.prompt), ("completion", row.completion)):
            if not text.strip():
                param = f"training_data[{number}].{key}"
                raise ApiError(422, f"{param} is blank; fill it in, or remove the row", "invalid_value", param)


def _row(row: TrainingRow, weight: float) -> dict[str, Any]:
    """Return a row of the dataset, its valid citations weighted."""
    messages = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
    spans = [vars(span) for span in citation_spans(messages, weight)]
    return {"messages": messages} | ({"spans": spans} if spans else {})


def _store(call: Call, filename: str, rows: list[dict[str, Any]]) -> UploadedFile:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    file = UploadedFile(new_id("file"), filename, len(content), PURPOSE, sha256)
    write_atomic(call.services.settings.files / file.id, content)
    record_file(call.services, file)
    return file


def _loss_events(loss: LossConfig, rows: list[dict[str, Any]]) -> list[NewEvent]:
    """Return events on the effect of the request's ``loss_config``."""
    events = []
    if others := sorted(loss.model_extra or {}):
        said = f"loss_config: {', '.join(others)[:300]} has no effect here; it is recorded with the job"
        events.append(NewEvent(said, "loss_config", "warn"))
    weight = loss.citation_validity_weight
    if weight is not None and weight != 1:
        spans = sum(len(row.get("spans", ())) for row in rows)
        said = f"loss_config: {CITATION_WEIGHT} {weight:g} is on {spans} document ids of valid citations"
        if not spans:
            said = f"loss_config: {CITATION_WEIGHT} {weight:g} touches nothing, since no row has a valid citation"
        events.append(NewEvent(said, CITATION_WEIGHT, "info" if spans else "warn"))
    return events


def poll_training(call: Call) -> JobStatus:
    """Return the state of a job of either contract."""
    job = find_job(call)
    progress = job.progress
    loss = progress.get("loss")
    loss = loss if isinstance(loss, (int, float)) and math.isfinite(loss) else None
    if job.status == "succeeded":
        started, finished = job.started_at or job.created_at, job.finished_at or time.time()
        duration = int(1000 * max(finished - started, 0))
        return JobStatus(CompletedJob(final_loss=loss, duration_ms=duration, model_id=job.fine_tuned_model or ""))
    if job.status == "cancelled":
        return JobStatus(FailedJob(error="the job was cancelled"))
    if job.status == "failed":
        return JobStatus(FailedJob(error=(job.error or {}).get("message") or "the job failed"))
    return JobStatus(RunningJob(epoch=progress.get("epoch", 0), step=progress.get("step", 0), loss=loss))


ROUTES = [
    Route(
        *("POST", "/v1/train", "Start a job with its rows", start_training),
        body=TrainRequest,
        answer=JobStarted,
        status=202,
        errors=(429, 507),
        contract="train",
    ),
    Route(
        *("GET", "/v1/train/{id}", "Poll a job", poll_training),
        answer=JobStatus,
        contract="train",
    ),
]
