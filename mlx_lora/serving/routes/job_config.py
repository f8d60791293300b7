"""Settings of a job: from the hyperparameters of a request to keys of ``TrainingConfig``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ...config import TrainingConfig
from ...config.validation import validated
from ...errors import UserError, shortened
from ..api import Strict
from ..api_error import ApiError

EXTENSION = "mlx_lora"
# Keys of the config that have other names in a request, that name places on this machine, or that would end a job
# before its last step: a job is paused instead.
_RESERVED = {
    *("model_name", "data", "output_dir", "init_adapter", "backend", "seed", "chat_template"),
    *("max_minutes", "until"),
}
EXTENSION_KEYS = [field.name for field in fields(TrainingConfig) if field.name not in _RESERVED]
LONGEST_SUFFIX = 64


class StrictTypes(Strict):
    """Body whose values have exactly the types of its schema: "3" is not a number, and NaN is none."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Hyperparameters(StrictTypes):
    """OpenAI's hyperparameters; ``auto`` leaves the choice to the server."""

    batch_size: Annotated[int, Field(ge=1, le=10**6)] | Literal["auto"] | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1e4)] | Literal["auto"] | None = None
    n_epochs: Annotated[int, Field(ge=1, le=10**6)] | Literal["auto"] | None = None

    def chosen(self) -> dict[str, int | float]:
        """Return those that are numbers."""
        return {key: value for key, value in self.model_dump().items() if value not in ("auto", None)}


def config_of(hyperparameters: Mapping[str, int | float]) -> dict[str, Any]:
    """Return the config keys of OpenAI's hyperparameters; a batch there is an optimizer step."""
    config: dict[str, Any] = {}
    if "n_epochs" in hyperparameters:
        config["num_epochs"] = hyperparameters["n_epochs"]
    if "batch_size" in hyperparameters:
        config |= {"batch_size": hyperparameters["batch_size"], "gradient_accumulation_steps": 1}
    if "learning_rate_multiplier" in hyperparameters:
        config["learning_rate"] = TrainingConfig().learning_rate * hyperparameters["learning_rate_multiplier"]
    return config


def hyperparameters_of(config: Mapping[str, Any]) -> Hyperparameters:
    """Return a job's config as OpenAI's hyperparameters."""
    rate = config.get("learning_rate")
    # Rounded to what a client wrote.
    multiplier: Any = "auto" if rate is None else float(f"{rate / TrainingConfig().learning_rate:.12g}")
    return Hyperparameters(
        batch_size=config.get("batch_size", "auto"),
        learning_rate_multiplier=multiplier,
        n_epochs=config.get("num_epochs", "auto"),
    )


def checked_config(config: Mapping[str, Any], param: str | None = None, status: int = 400) -> dict[str, Any]:
    """Return config keys with values that ``TrainingConfig`` takes.

    Raises:
        ApiError: there is no such key, or its value is of another type or out of range.
    """
    try:
        return validated(param or "the settings", config)
    except UserError as error:
        raise ApiError(status, str(error), "invalid_value", param) from None


def extension_config(extension: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config keys that a request gives under ``mlx_lora``.

    Raises:
        ApiError: one of them is not for requests, or see :func:`checked_config`.
    """
    for key in extension:
        if key in _RESERVED:
            raise ApiError(
                400,
                f"{EXTENSION}: {key} cannot be set by a request; "
                f"a job takes the keys {', '.join(EXTENSION_KEYS[:4])} and others of the config, but no paths",
                "invalid_value",
                EXTENSION,
            )
    return checked_config(extension, EXTENSION)


def name_part(text: str | None) -> str | None:
    """Return a name that a client gave as a part of a model's id; ``None`` where nothing of it can be one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text or "")[:LONGEST_SUFFIX].strip("-.") or None


def with_kept(config: Mapping[str, Any], kept: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a config for an adapter that training continues, whose shape stays.

    Args:
        kept: the config keys that stay, with their values.

    Raises:
        ApiError: the request asks for another value of one.
    """
    for key, value in kept.items():
        if key in config and config[key] != value:
            raise ApiError(
                400,
                f"{model}: training continues this adapter, which has {key} {shortened(value)}, and the request "
                f"asks for {shortened(config[key])}; leave {key} out",
                "invalid_value",
                "model",
            )
    return {**config, **kept}
