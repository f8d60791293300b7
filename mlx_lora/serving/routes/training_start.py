"""Start of a job's training: from the model that a client names to a base and, to continue one, an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError, shortened
from ...models.resolve import BUILT_IN
from ...runs.resolve import Reference
from ..chat.catalogue import Catalogue
from ..jobs.fine_tuned import PREFIX
from ..settings import ServerSettings
from ..state import State

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
    catalogue = Catalogue(settings, state)
    try:
        found = catalogue.local(model)
    except UserError as error:
        raise UserError(f"{model}: this model cannot be trained ({error})") from None
    if found is not None:
        return _start_from(found)
    if catalogue.has_directory(model):
        raise UserError(f"{model}: this model cannot be trained (the directory holds neither a base nor a run)")
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model, re.ASCII) and ".." not in model:
        return TrainingStart(model)
    if model.startswith(PREFIX):
        raise UserError(
            f"there is no fine-tuned model {shortened(model, 200)}; take the fine_tuned_model of a job that succeeded, "
            "or one of its checkpoints"
        )
    raise UserError(
        f"there is no model {shortened(model)} to train; name {', '.join(BUILT_IN)}, a model of the hub (owner/name), "
        "a directory below the server's --models, or a fine-tuned model (ft:…)"
    )


def _start_from(found: Reference) -> TrainingStart:
    base = found.base
    if found.adapter is None:
        return TrainingStart(base.reference)
    learned: Mapping[str, Any] = found.run.get("learned_from") or {}
    kept = {key: learned[key] for key in SHAPE if key in learned}
    if base.revision is not None:
        kept["model_revision"] = base.revision
    return TrainingStart(base.reference, str(found.adapter), kept)
