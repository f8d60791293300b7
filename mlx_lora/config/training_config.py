"""Training config: keys, defaults, validation, and the files it is read from."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import UserError, shortened
from .paths import located
from .settings_file import parse_yaml, read_settings

PACKAGE = Path(__file__).parent.parent
# Next to the package in a clone, inside it in a wheel.
PRESET_DIRECTORIES = (PACKAGE / "configs", PACKAGE.parent / "configs")


class DefaultModules(list[str]):
    """The target modules of a config that names none: q, k, v and o; a base that lacks them gets ``auto`` instead."""


def default_modules() -> DefaultModules:
    """Return the target modules of a config that names none."""
    return DefaultModules(["q_proj", "k_proj", "v_proj", "o_proj"])


@dataclass
class TrainingConfig:
    """All settings that decide what a run learns; paths are relative to the working directory.

    ``max_steps`` of ``None`` trains for ``num_epochs``. ``eval_steps`` of ``None`` evaluates after each epoch.
    ``num_layers`` of ``None`` adapts every layer. Any other ``None`` means no limit.
    """

    model_name: str = "meta-llama/Llama-3.2-1B-Instruct"
    model_revision: str | None = None
    load_in_4bit: bool = False
    chat_template: str | None = None
    system_role: Literal["merge", "refuse"] = "merge"
    backend: Literal["auto", "mlx", "torch"] = "auto"
    data: str | list[dict[str, Any]] | None = None
    output_dir: str | None = None
    init_adapter: str | None = None
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    use_rslora: bool = False
    fine_tune_type: Literal["lora", "dora", "full"] = "lora"
    lora_target_modules: list[str] | Literal["auto"] = field(default_factory=default_modules)
    num_layers: int | None = None
    learning_rate: float = 2e-4
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = 100
    num_epochs: int = 5
    max_steps: int | None = None
    batch_size: int = 4
    gradient_accumulation_steps: int = 4
    micro_batch_tokens: int = 2048
    max_seq_length: int = 512
    train_on_prompt: bool = False
    weight_decay: float = 0.01
    grad_clip: float | None = None
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    grad_checkpoint: bool = False
    torch_compile: bool = False
    eval_steps: int | None = None
    early_stopping_patience: int | None = None
    keep_best: bool = True
    save_steps: int = 100
    save_total_limit: int = 3
    log_steps: int = 10
    tensorboard: bool = False
    max_minutes: float | None = None
    until: str | None = None
    memory_limit_gb: float | None = None
    waive_checks: list[str] = field(default_factory=list)
    seed: int = 42

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict of JSON values."""
        named = self.lora_target_modules
        return asdict(self) | {"lora_target_modules": named if isinstance(named, str) else list(named)}

    def located(self) -> TrainingConfig:
        """Return the config with absolute paths to local files, so that it is valid in any directory."""
        return replace(self, **located(self.to_dict()))

    def training_fingerprint(self) -> dict[str, Any]:
        """Return the keys that decide what is learned: a run only resumes with the same ones."""
        decisive = {key: value for key, value in self.to_dict().items() if key not in RUN_ONLY}
        # Datasets are compared by their contents; their shares are not part of these.
        mixed = [share["weight"] for share in self.data] if isinstance(self.data, list) else []
        return decisive | ({"data_weights": mixed} if mixed else {})


# Settings that do not affect what is learned; these may differ on resume.
RUN_ONLY = {
    *("backend", "output_dir", "data", "save_steps", "save_total_limit", "log_steps", "tensorboard"),
    *("max_minutes", "until", "memory_limit_gb", "grad_checkpoint", "torch_compile", "waive_checks"),
}
# The smallest (included) and largest value of each number, and whether the smallest is itself too small.
RANGES: dict[str, tuple[float, float, bool]] = {
    "lora_rank": (1, 4096, False),
    "lora_alpha": (0, 1e6, True),
    "lora_dropout": (0, 0.999, False),
    "num_layers": (1, 10_000, False),
    "learning_rate": (0, 10, True),
    "warmup_steps": (0, 10**9, False),
    "num_epochs": (1, 10**6, False),
    "max_steps": (1, 10**9, False),
    "batch_size": (1, 10**6, False),
    "gradient_accumulation_steps": (1, 10**6, False),
    "micro_batch_tokens": (1, 10**9, False),
    "max_seq_length": (8, 10**7, False),
    "weight_decay": (0, 10, False),
    "grad_clip": (0, 1e6, True),
    "eval_steps": (1, 10**9, False),
    "early_stopping_patience": (1, 10**6, False),
    "save_steps": (1, 10**9, False),
    "save_total_limit": (1, 10**6, False),
    "log_steps": (1, 10**9, False),
    "max_minutes": (0, 10**6, True),
    "memory_limit_gb": (0, 10**5, True),
    "seed": (0, 2**63 - 1, False),
}
_TYPES = get_type_hints(TrainingConfig)


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> TrainingConfig:
    """Return the configuration of a YAML or JSON file (or a preset's name), then ``key=value`` overrides.

    Args:
        path: a file, the name of a preset in ``configs/``, or ``None`` for the defaults.
        overrides: ``key=value`` texts, the value in YAML.

    Raises:
        UserError: no such file, not YAML or JSON, an unknown key, a wrong type or a value out of range.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        file = find_config(path)
        settings = {key: _checked(str(file), key, value) for key, value in _in_our_names(file).items()}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text[:80]}: this must be key=value, e.g. --set learning_rate=1e-4")
        settings[key.strip()] = _checked(f"--set {text[:80]}", key.strip(), _parse_value(text, value))
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

    settings = _read_mapping(file)
    try:
        return from_published(settings) if is_published(settings) else settings
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _read_mapping(file: Path) -> Mapping[str, Any]:
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


def _checked(where: str, key: Any, value: Any) -> Any:
    names = [f.name for f in fields(TrainingConfig)]
    if key not in names:
        near = difflib.get_close_matches(shortened(key), names, n=1, cutoff=0.0)[0]
        raise UserError(f"{where}: there is no config key {shortened(key)}; the nearest is {near!r}")
    if key == "until" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = f"{value // 60:02d}:{value % 60:02d}"  # YAML 1.1 reads 23:00 as minutes, in base 60
    if key == "data" and isinstance(value, list):
        return _shares(where, value)
    value = _coerce(_TYPES[key], value)
    if not _fits(_TYPES[key], value):
        raise UserError(f"{where}: {key} must be {_describe(_TYPES[key])}, not {shortened(value)}")
    if key in RANGES and value is not None:
        low, high, above = RANGES[key]
        if not (low < value if above else low <= value) or value > high:
            raise UserError(
                f"{where}: {key} must be {'above' if above else 'at least'} {low:g} and at most {high:g}, "
                f"not {shortened(value)}"
            )
    if key == "until" and value is not None and not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value):
        raise UserError(f"{where}: until must be a time of day such as 06:00, not {shortened(value)}")
    if key == "lora_target_modules" and not value:
        raise UserError(
            f"{where}: lora_target_modules is empty; name at least one module, e.g. [q_proj, v_proj], or auto"
        )
    return value


def _shares(where: str, value: list[Any]) -> list[dict[str, Any]]:
    """Return the datasets of a mix as ``{"path", "weight"}``; the default weight is 1."""
    shares: list[dict[str, Any]] = []
    for item in value:
        share = {"weight": 1.0, **item} if isinstance(item, dict) else {}
        path, weight = share.get("path"), _coerce(float, share.get("weight"))
        fits = set(share) == {"path", "weight"} and isinstance(path, str) and isinstance(weight, float)
        if not fits or not 0 < weight <= 1e9:
            raise UserError(
                f"{where}: an item of data must be {{path: DIR, weight: a number above 0}}, not {shortened(item)}"
            )
        if path in [other["path"] for other in shares]:
            raise UserError(f"{where}: data names {shortened(path, 300)} twice; give it one weight")
        shares.append({"path": path, "weight": weight})
    if not shares:
        raise UserError(f"{where}: data is empty; name at least one dataset")
    return shares


def _coerce(kind: Any, value: Any) -> Any:
    """Convert a value to a config type: YAML 1.1 reads 2e-4 as text, and whole numbers are valid floats."""
    choices = _alternatives(kind)
    if float in choices and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if float in choices and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf
    return value


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _fits(kind: Any, value: Any) -> bool:
    for choice in _alternatives(kind):
        if get_origin(choice) is Literal:
            if value in get_args(choice):
                return True
        elif get_origin(choice) is list:
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return True
        elif isinstance(value, choice) and not (isinstance(value, bool) and choice is not bool):
            return True
    return False


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    words = []
    for choice in _alternatives(kind):
        if get_origin(choice) is Literal:
            words.append("one of " + ", ".join(get_args(choice)))
        elif get_origin(choice) is list:
            words.append("a list of names" if get_args(choice) == (str,) else "a list of {path, weight}")
        else:
            words.append(names[choice])
    return " or ".join(words)
