"""OpenAI's fine-tuning jobs: create, list, follow, cancel, pause and resume them, and list their checkpoints."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any

from pydantic import Field

from ...errors import UserError
from ..api import Call, Route
from ..api_error import ApiError
from ..records import PURPOSE, Job, NewEvent, new_id
from .job_config import (
    EXTENSION,
    LONGEST_SUFFIX,
    Hyperparameters,
    StrictTypes,
    config_of,
    extension_config,
    name_part,
    with_kept,
)
from .job_objects import (
    CheckpointList,
    EventList,
    JobList,
    JobObject,
    checkpoint_object,
    event_object,
    job_object,
)
from .listing import ListQuery, page
from .training_start import find_start

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class Supervised(StrictTypes):
    """Settings of supervised training."""

    hyperparameters: Hyperparameters | None = None


class MethodRequest(StrictTypes):
    """Training method of a request; ``supervised`` is the one that is available."""

    type: Annotated[str, Field(max_length=64)]
    supervised: Supervised | None = None
    dpo: dict[str, Any] | None = None
    reinforcement: dict[str, Any] | None = None


class JobRequest(StrictTypes):
    """Request for a job.

    Attributes:
        mlx_lora: keys of the training config beyond OpenAI's hyperparameters; the client sends them as ``extra_body``.
    """

    model: Annotated[str, Field(min_length=1, max_length=500)]
    training_file: Annotated[str, Field(max_length=200)]
    validation_file: Annotated[str, Field(max_length=200)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: MethodRequest | None = None
    suffix: Annotated[str, Field(max_length=LONGEST_SUFFIX)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    integrations: list[dict[str, Any]] | None = None
    mlx_lora: dict[str, Any] | None = None


def create_job(call: Call) -> JobObject:
    """Create a job from uploaded files."""
    body: JobRequest = call.body
    for param in ("training_file", "validation_file"):
        if (identity := getattr(body, param)) is not None:
            _check_file(call, identity, param)
    config = {**config_of(_hyperparameters(body)), **extension_config(body.mlx_lora or {})}
    job = Job(
        id=new_id("ftjob"),
        contract="fine_tuning",
        model=body.model,
        request=body.model_dump(exclude_unset=True),
        config=start_config(call, body.model, config),
        training_file=body.training_file,
        validation_file=body.validation_file,
        suffix=name_part(body.suffix),
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        metadata=body.metadata,
    )
    said = f'integrations are not used here; {{"{EXTENSION}": {{"report_to": [...]}}}} names the loggers of a job'
    events = [NewEvent(said, "integrations", "warn")] if body.integrations else []
    return job_object(call.services.scheduler.submit(job, events), call.services)


def start_config(call: Call, model: str, config: dict[str, Any], status: int = 400) -> dict[str, Any]:
    """Return the config of a job with the base and the adapter that it starts from.

    Raises:
        ApiError: there is no such model, or it is an adapter and the config asks for another shape.
    """
    try:
        start = find_start(model, call.services.settings, call.services.state)
    except UserError as error:
        raise ApiError(status, str(error), "model_not_available", "model") from None
    adapter = {} if start.init_adapter is None else {"init_adapter": start.init_adapter}
    return {**with_kept(config, start.kept, model), "model_name": start.model_name, **adapter}


def _hyperparameters(body: JobRequest) -> dict[str, Any]:
    method = body.method or MethodRequest(type="supervised")
    if method.type != "supervised":
        known = method.type in ("dpo", "reinforcement")
        said = "not available yet" if known else "not a method"
        raise ApiError(
            400, f"method.type {method.type!r} is {said}; use supervised", "unsupported_method", "method.type"
        )
    outer = (body.hyperparameters or Hyperparameters()).chosen()
    inner = ((method.supervised or Supervised()).hyperparameters or Hyperparameters()).chosen()
    for key, value in inner.items():
        if outer.get(key, value) != value:
            raise ApiError(
                400,
                f"hyperparameters.{key} is {outer[key]}, and {value} in method.supervised; give it once",
                "invalid_value",
                f"hyperparameters.{key}",
            )
    return {**outer, **inner}


def _check_file(call: Call, identity: str, param: str) -> None:
    file = call.services.state.find_file(identity)
    if file is None:
        raise ApiError(400, f"{param}: there is no file {identity!r}; upload one first", "invalid_file", param)
    if file.purpose != PURPOSE:
        raise ApiError(
            400,
            f"{param}: {identity} has the purpose {file.purpose!r}; upload it with the purpose {PURPOSE}",
            "invalid_file",
            param,
        )


def find_job(call: Call) -> Job:
    """Return the job that the path names.

    Raises:
        ApiError: there is none.
    """
    identity = call.path["id"]
    job = call.services.state.find_job(identity)
    if job is None:
        raise ApiError(404, f"there is no job {identity!r}", "not_found", "id")
    return job


def get_job(call: Call) -> JobObject:
    """Return a job."""
    return job_object(find_job(call), call.services)


def list_jobs(call: Call) -> Any:
    """Return jobs, the newest first; ``metadata[key]=value`` chooses some of them."""
    jobs = call.services.state.list_jobs()[::-1]
    for name, value in call.http.query_params.items():
        if name == "metadata" and value == "null":
            jobs = [job for job in jobs if not job.metadata]
        elif key := re.fullmatch(r"metadata\[(.*)\]", name, re.DOTALL):
            jobs = [job for job in jobs if (job.metadata or {}).get(key[1]) == value]
    found, more = page(jobs, call.query)
    queue = {job_id: place for place, job_id in enumerate(call.services.state.job_ids("queued"))}
    return JobList(data=[job_object(job, call.services, queue) for job in found], has_more=more)


def list_events(call: Call) -> Any:
    """Return events of a job, the newest first."""
    job, state, query = find_job(call), call.services.state, call.query
    before = None
    if query.after is not None:
        event = state.find_event(job.id, query.after)
        if event is None:
            raise ApiError(400, f"after: the job has no event {query.after[:100]!r}", "invalid_value", "after")
        before = event.sequence
    events = state.newest_events(job.id, before, query.limit + 1)
    shown = events[: query.limit]
    return EventList(data=[event_object(event) for event in shown], has_more=len(events) > len(shown))


def list_checkpoints(call: Call) -> Any:
    """Return checkpoints of a job, the newest first."""
    from ..jobs.files import job_checkpoints

    job = find_job(call)
    found, more = page(job_checkpoints(call.services.settings, job), call.query)
    return CheckpointList(data=[checkpoint_object(each, job) for each in found], has_more=more)


def cancel_job(call: Call) -> JobObject:
    """Cancel a job."""
    return job_object(call.services.scheduler.cancel(call.path["id"]), call.services)


def pause_job(call: Call) -> JobObject:
    """Pause a job; its state is kept."""
    return job_object(call.services.scheduler.pause(call.path["id"]), call.services)


def resume_job(call: Call) -> JobObject:
    """Resume a paused job."""
    return job_object(call.services.scheduler.resume(call.path["id"]), call.services)


JOBS = "/v1/fine_tuning/jobs"
JOB = JOBS + "/{id}"
ROUTES = [
    Route("POST", JOBS, "Create a job", create_job, body=JobRequest, answer=JobObject, errors=(429, 507)),
    Route("GET", JOBS, "List jobs, the newest first", list_jobs, query=ListQuery, answer=JobList, errors=(400,)),
    Route("GET", JOB, "Get a job", get_job, answer=JobObject),
    Route(
        *("GET", JOB + "/events", "List events of a job, the newest first", list_events),
        query=ListQuery,
        answer=EventList,
        errors=(400,),
    ),
    Route(
        *("GET", JOB + "/checkpoints", "List checkpoints of a job, the newest first", list_checkpoints),
        query=ListQuery,
        answer=CheckpointList,
        errors=(400,),
    ),
    Route("POST", JOB + "/cancel", "Cancel a job", cancel_job, answer=JobObject, errors=(409,)),
    Route("POST", JOB + "/pause", "Pause a job; its state is kept", pause_job, answer=JobObject, errors=(409,)),
    Route("POST", JOB + "/resume", "Resume a paused job", resume_job, answer=JobObject, errors=(409,)),
]
