"""Training config: keys, defaults, validation, and the files it is read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Interval

from ..errors import UserError
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
    lora_rank: Annotated[int, Interval(ge=1, le=4096)] = 16
    lora_alpha: Annotated[float, Interval(gt=0, le=1e6)] = 32.0
    lora_dropout: Annotated[float, Interval(ge=0, le=0.999)] = 0.05
    use_rslora: bool = False
    fine_tune_type: Literal["lora", "dora", "full"] = "lora"
    lora_target_modules: list[str] | Literal["auto"] = field(default_factory=default_modules)
    num_layers: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    learning_rate: Annotated[float, Interval(gt=0, le=10)] = 2e-4
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Interval(ge=0, le=10**9)] = 100
    num_epochs: Annotated[int, Interval(ge=1, le=10**6)] = 5
    max_steps: Annotated[int, Interval(ge=1, le=10**9)] | None = None
    batch_size: Annotated[int, Interval(ge=1, le=10**6)] = 4
    gradient_accumulation_steps: Annotated[int, Interval(ge=1, le=10**6)] = 4
    micro_batch_tokens: Annotated[int, Interval(ge=1, le=10**9)] = 2048
    max_seq_length: Annotated[int, Interval(ge=8, le=10**7)] = 512
    train_on_prompt: bool = False
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.01
    grad_clip: Annotated[float, Interval(gt=0, le=1e6)] | None = None
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    grad_checkpoint: bool = False
    torch_compile: bool = False
    eval_steps: Annotated[int, Interval(ge=1, le=10**9)] | None = None
    early_stopping_patience: Annotated[int, Interval(ge=1, le=10**6)] | None = None
    keep_best: bool = True
    save_steps: Annotated[int, Interval(ge=1, le=10**9)] = 100
    save_total_limit: Annotated[int, Interval(ge=1, le=10**6)] = 3
    log_steps: Annotated[int, Interval(ge=1, le=10**9)] = 10
    tensorboard: bool = False
    max_minutes: Annotated[float, Interval(gt=0, le=10**6)] | None = None
    until: str | None = None
    memory_limit_gb: Annotated[float, Interval(gt=0, le=10**5)] | None = None
    waive_checks: list[str] = field(default_factory=list)
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 42

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict of JSON values."""
        named = self.lora_target_modules
        return asdict(self) | {"lora_target_modules": named if isinstance(named, str) else list(named)}

    def located(self) -> TrainingConfig:
        """Return the config with absolute paths to local files, so that it is valid in any directory."""
        return replace(self, **located(self.to_dict()))

    def learned_from(self) -> dict[str, Any]:
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
