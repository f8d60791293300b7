"""Config dialects: the published claims module's keys and checks, translated into ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError

# Their name -> ours; None: :func:`from_published` says what becomes of it.
NAMES: dict[str, str | None] = {
    "name": None,
    "base_model": "model_name",
    "lora_rank": "lora_rank",
    "lora_alpha": "lora_alpha",
    "learning_rate": "learning_rate",
    "epochs": "num_epochs",
    "batch_size": "batch_size",
    "warmup_steps": "warmup_steps",
    "loss_fn_config": None,
}
# Names that only their files have; one of them alone is more likely a typo.
THEIRS = {"name", "base_model", "epochs", "loss_fn_config"}
# Their prompts showed no documents; ours do, and a truncated one would lose the evidence that its answer cites.
MAX_SEQ_LENGTH = 2048


def is_published(settings: Mapping[str, Any]) -> bool:
    """Return True if a config file is one of the published module."""
    return len(THEIRS & set(settings)) > 1


def _number(value: Any) -> float:
    """Return a number, also from the text that YAML 1.1 makes of 2e-4; nan for anything else."""
    try:
        return math.nan if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        return math.nan


def validate(settings: Mapping[str, Any]) -> list[str]:
    """Return the published errors: name_required, base_model_required, invalid_lora_rank, invalid_learning_rate.

    A rank or rate that is not given has its default, and is no error.
    """

    def empty(key: str) -> bool:
        return not isinstance(settings.get(key), str) or not settings[key].strip()

    errors = [f"{key}_required" for key in ("name", "base_model") if empty(key)]
    if "lora_rank" in settings and not (_number(settings["lora_rank"]) >= 1):
        errors.append("invalid_lora_rank")
    if "learning_rate" in settings and not (0 < _number(settings["learning_rate"]) < math.inf):
        errors.append("invalid_learning_rate")
    return errors


def from_published(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a published config into the keys of ``TrainingConfig``; our own keys stay as they are.

    The run and its directory are named after it. Their step is one batch, hence no accumulation. ``loss_fn_config`` is
    checked and left to the dataset, whose lines carry the weights (``data claims --citation-validity-weight``).

    Raises:
        UserError: one of :func:`validate`'s errors, by name, or a ``loss_fn_config`` that means nothing here.
    """
    if errors := validate(settings):
        raise UserError(f"{', '.join(errors)}: correct this in the claims config")
    citation_weight(settings)
    name = re.sub(r"[^\w.-]+", "-", settings["name"]).strip("-.") or "claims"
    ours: dict[str, Any] = {
        "output_dir": f"adapters/{name}",
        "run_name": printable_name(settings["name"]) or name,
        "gradient_accumulation_steps": 1,
        "max_seq_length": MAX_SEQ_LENGTH,
    }
    for key, value in settings.items():
        new = NAMES.get(key, key)
        if new is not None:
            ours[new] = value
    return ours


def printable_name(text: str) -> str:
    """Return a name of any characters as a ``run_name``; it may be empty."""
    return "".join(character for character in text if character.isprintable())[:200]


def citation_weight(settings: Mapping[str, Any]) -> float | None:
    """Return the ``citation_validity_weight`` of a published config, ``None`` if it has none.

    Raises:
        UserError: it is not a number above 0, or ``loss_fn_config`` has other keys.
    """
    loss = settings.get("loss_fn_config") or {}
    if not isinstance(loss, Mapping) or set(loss) - {"citation_validity_weight"}:
        raise UserError('loss_fn_config is {"citation_validity_weight": 5.0}, and nothing else has an effect here')
    if "citation_validity_weight" not in loss:
        return None
    weight = _number(loss["citation_validity_weight"])
    if not 0 < weight < math.inf:
        raise UserError("citation_validity_weight must be a number above 0")
    return weight
