"""Start of a job's training: from the model that a client names to a base and, to continue one, an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, shortened
from ..models.resolve import BUILT_IN
from ..runs.resolve import resolve_model_or_run
from .job_files import checkpoint_adapter, job_directory
from .job_objects import model_id
from .settings import ServerSettings
from .state import State

FINE_TUNED = "ft:"
# The config keys that decide the shape of an adapter.
SHAPE = ("lora_rank", "lora_alpha", "use_rslora", "fine_tune_type", "lora_target_modules", "num_layers")


@dataclass(frozen=True)
class TrainingStart:
    """Start of a job's training.

    Attributes:
        model_name: the base, by a name that is valid in any working directory.
        init_adapter: directory of the adapter that training continues.
        kept: config keys of that adapter's shape and its base's revision, with the values that training keeps.
    """

    model_name: str
    init_adapter: str | None = None
    kept: dict[str, Any] = field(default_factory=dict)


def find_start(model: str, settings: ServerSettings, state: State) -> TrainingStart:
    """Find the model that a client names: built in, fine-tuned here, below ``settings.models``, or on the hub.

    A model of the hub is looked for when the job starts.

    Raises:
        UserError: there is none of that name, or it is broken.
    """
    if model in BUILT_IN:
        return TrainingStart(model)
    if model.startswith(FINE_TUNED):
        return _run(model, _fine_tuned(model, settings, state))
    if place := _below(settings.models, model):
        return _run(model, place)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model, re.ASCII) and ".." not in model:
        return TrainingStart(model)
    raise UserError(
        f"there is no model {shortened(model)} to train; name {', '.join(BUILT_IN)}, a model of the hub (owner/name), "
        "a directory below the server's --models, or a fine-tuned model (ft:…)"
    )


def _fine_tuned(model: str, settings: ServerSettings, state: State) -> str:
    name, _, step = model.partition(":ckpt-step-")
    job = state.find_job(f"ftjob-{name.rpartition(':')[2]}")
    if job is not None and model_id(job) == name:
        if step.isascii() and step.isdecimal():
            return str(checkpoint_adapter(settings, job, int(step[:9])))
        if not step and job.status == "succeeded":
            return str(job_directory(settings, job.id).run)
    raise UserError(
        f"there is no fine-tuned model {shortened(model, 200)}; take the fine_tuned_model of a job that succeeded, "
        "or one of its checkpoints"
    )


def _below(directory: Path, name: str) -> str | None:
    """Return the path of a run, a generation or a base below a directory; ``None``: the name is of nothing there."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts):
        return None
    top = directory.expanduser().resolve()
    for place in (top / name, top / name.partition("@")[0]):
        if place.is_dir():
            return str(top / name) if place.resolve().is_relative_to(top) else None
    return None


def _run(model: str, place: str) -> TrainingStart:
    try:
        found = resolve_model_or_run(place)
    except UserError as error:
        raise UserError(f"{model}: this model cannot be trained ({error})") from None
    base = found.base
    if found.adapter is None:
        return TrainingStart(base.reference)
    learned: Mapping[str, Any] = found.run.get("learned_from") or {}
    kept = {key: learned[key] for key in SHAPE if key in learned}
    if base.revision is not None:
        kept["model_revision"] = base.revision
    return TrainingStart(base.reference, str(found.adapter), kept)
