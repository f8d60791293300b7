"""Validation of config settings: pydantic's checks, the first error as one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, create_model, field_validator

from ..errors import UserError, nearest, shortened
from .training_config import Logger, TrainingConfig

HINTS = get_type_hints(TrainingConfig, include_extras=True)
KINDS = get_type_hints(TrainingConfig) | {"weight": float}
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
WORDS |= {list[str]: "a list of names", list[dict[str, Any]]: "a list of {path, weight}"}
WORDS |= {list[Logger]: "a list of " + ", ".join(get_args(Logger))}


def _as_meant(value: Any, info: ValidationInfo) -> Any:
    """Return the value that is meant: YAML 1.1 reads 2e-4 as text, and 23:00 as minutes, in base 60.

    ``report_to`` may be one name, or ``none``, as Hugging Face's trainers have it.
    """
    kind = KINDS.get(str(info.field_name))
    if float in (kind, *get_args(kind)) and type(value) in (int, str):
        with suppress(ValueError):
            return float(str(value))
    if info.field_name == "until" and type(value) is int and value >= 0:
        return f"{value // 60:02d}:{value % 60:02d}"
    if info.field_name == "report_to" and (value is None or isinstance(value, str)):
        return [] if value in (None, "none") else [value]
    return value


def _checked(value: Any, info: ValidationInfo) -> Any:
    """Check what the types do not say; a ``ValueError`` is the sentence."""
    if info.field_name == "until" and value is not None and not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value):
        raise ValueError(f"until must be a time of day such as 06:00, not {shortened(value)}")
    if info.field_name == "run_name" and value is not None and not (value.isprintable() and 0 < len(value) <= 200):
        raise ValueError(f"run_name must be 1 to 200 printable characters, not {shortened(value)}")
    if info.field_name == "lora_target_modules" and not value:
        raise ValueError("lora_target_modules is empty; name at least one module, e.g. [q_proj, v_proj], or auto")
    if info.field_name != "data" or not isinstance(value, list):
        return value
    paths = [share.path for share in value]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"data names {shortened(twice[0], 300)} twice; give it one weight")
    if not value:
        raise ValueError("data is empty; name at least one dataset")
    return [share.model_dump() for share in value]


class _Settings(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    _before = field_validator("*", mode="before")(_as_meant)
    _after = field_validator("*", mode="after")(_checked)


class Share(_Settings):
    """One dataset of a mix."""

    path: str
    weight: Annotated[float, Interval(gt=0, le=1e9)] = 1.0


_FIELDS: Any = {key: (hint, None) for key, hint in HINTS.items()} | {"data": (str | list[Share] | None, None)}
Settings = create_model("Settings", __base__=_Settings, **_FIELDS)


def validated(where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as values of ``TrainingConfig``.

    Args:
        where: the file or option that they are from.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range.
    """
    for key in settings:
        if key not in HINTS:
            raise UserError(f"{where}: there is no config key {shortened(key)}; the nearest is {nearest(key, HINTS)!r}")
    try:
        checked = Settings.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error, settings)}") from None
    return {key: getattr(checked, key) for key in settings}


def _sentence(error: ValidationError, settings: Mapping[str, Any]) -> str:
    """Return the sentence of the first wrong key."""
    details = error.errors()
    # Of the alternatives of a type, the one that fits best.
    detail = max(details, key=lambda each: (each["loc"][0] == details[0]["loc"][0], len(each["loc"])))
    key, inside, kind = str(detail["loc"][0]), detail["loc"][1:], detail["type"]
    value = settings[key]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if key == "data" and len(inside) > 1:
        return f"an item of data must be {{path: DIR, weight: a number above 0}}, not {shortened(value[inside[1]])}"
    wanted = _describe(KINDS[key])
    if kind.startswith(("greater", "less")):
        parts = (HINTS[key], *get_args(HINTS[key]))
        bounds = next(part.__metadata__[0] for part in parts if hasattr(part, "__metadata__"))
        low = f"at least {bounds.ge:g}" if bounds.gt is None else f"above {bounds.gt:g}"
        wanted = f"{low} and at most {bounds.le:g}"
    return f"{key} must be {wanted}, not {shortened(value)}"


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    return WORDS.get(kind) or " or ".join(map(_describe, get_args(kind)))
