"""Names of the models that jobs train: ``ft:BASE:SUFFIX:NUMBER``, and of a checkpoint ``…:ckpt-step-STEP``."""

from __future__ import annotations

import re
from pathlib import Path

from ..records import Job
from ..settings import ServerSettings
from ..state import State
from .files import checkpoint_adapter, job_directory

PREFIX = "ft:"
# NUMBER is the job's id without its prefix.
_NAME = re.compile(r"ft:(?P<base>.+):[^:]*:(?P<job>[0-9a-f]{24})(:ckpt-step-(?P<step>[0-9]{1,9}))?")


def model_id(job: Job, step: int | None = None) -> str:
    """Return the name of the model that a job trains, or of its checkpoint after a step.

    Training that continues an adapter names the base that it all began with, so that names do not grow.
    """
    continued = _NAME.fullmatch(job.model)
    base = continued["base"] if continued else job.model
    name = f"{PREFIX}{base}:{job.suffix or ''}:{job.id.removeprefix('ftjob-')}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def trained_directory(identity: str, settings: ServerSettings, state: State) -> Path | None:
    """Return the directory with the adapter of a name; ``None``: there is no such model, or not yet.

    Raises:
        UserError: see ``checkpoint_adapter``.
    """
    parts = _NAME.fullmatch(identity)
    job = parts and state.find_job(f"ftjob-{parts['job']}")
    if not parts or not job:
        return None
    step = None if parts["step"] is None else int(parts["step"])
    if model_id(job, step) != identity:
        return None
    if step is not None:
        return checkpoint_adapter(settings, job, step)
    return job_directory(settings, job.id).run if job.status == "succeeded" else None
