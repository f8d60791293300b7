"""Config loading: presets, YAML and JSON files, and ``key=value`` overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .settings_file import parse_yaml, read_settings
from .training_config import TrainingConfig

PACKAGE = Path(__file__).parent.parent
# Next to the package in a clone, inside it in a wheel.
PRESET_DIRECTORIES = (PACKAGE / "configs", PACKAGE.parent / "configs")


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> TrainingConfig:
    """Return the configuration of a YAML or JSON file (or a preset's name), then ``key=value`` overrides.

    Args:
        path: a file, the name of a preset in ``configs/``, or ``None`` for the defaults.
        overrides: ``key=value`` texts, the value in YAML.

    Raises:
        UserError: no such file, not YAML or JSON, an unknown key, a wrong type or a value out of range.
    """
    # Here, since pydantic takes a while to import.
    from .validation import validated

    settings: dict[str, Any] = {}
    if path is not None:
        file = find_config(path)
        settings = validated(str(file), _in_our_names(file))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text[:80]}: this must be key=value, e.g. --set learning_rate=1e-4")
        settings |= validated(f"--set {text[:80]}", {key.strip(): _parse_value(text, value)})
    return TrainingConfig(**settings)


def find_config(path: str | Path) -> Path:
    """Return the file of a path or of a preset's name."""
    file = Path(path)
    if file.is_file():
        return file
    presets = {p.stem: p for directory in PRESET_DIRECTORIES for p in sorted(directory.glob("*.yaml"))}
    if str(path) in presets:
        return presets[str(path)]
    raise UserError(
        f"{path}: there is no such config file; give a YAML or JSON file, or a preset: {', '.join(presets)}"
    )


def _in_our_names(file: Path) -> Mapping[str, Any]:
    """Return a config file's keys; one of the published claims module is translated."""
    from .dialects import from_published, is_published

    settings = read_mapping(file)
    if "stores" in settings and isinstance(settings.get("train"), dict):
        # The config of a night: its training keys.
        settings = {**{key: settings[key] for key in ("model_name",) if key in settings}, **settings["train"]}
    try:
        return from_published(settings) if is_published(settings) else settings
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def read_mapping(file: Path) -> Mapping[str, Any]:
    """Return the keys and values of a YAML or JSON file.

    Raises:
        UserError: it cannot be read, is neither, or is not a mapping.
    """
    try:
        content = read_settings(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: this config cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        line = place.line + 1 if place else getattr(error, "lineno", 1)
        problem = getattr(error, "problem", None) or getattr(error, "msg", None) or "unreadable"
        raise UserError(
            f"{file}, line {line}: this is not valid {file.suffix.lstrip('.') or 'YAML'}: {problem}"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{file}: a config is a mapping of keys to values, and this is a {type(content).__name__}")
    return content


def _parse_value(text: str, value: str) -> Any:
    try:
        return parse_yaml(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--set {text[:80]}: the value is not valid YAML") from error
