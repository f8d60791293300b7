"""On-disk adapter format: mlx-lm's adapter files, shared by both backends, and the initial LoRA values."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DefaultModules, TrainingConfig
from ..errors import UserError, first_line
from ..files import write_json
from ..models.resolve import ResolvedModel
from ..user_files import read_text

ADAPTER_FILE, ADAPTER_CONFIG = "adapters.safetensors", "adapter_config.json"
# In a directory with several generations: they themselves, what names some of them, and the live one's name and link.
GENERATIONS, REFS, LIVE = "generations", "refs", "live"


def initial_a(seed: int, name: str, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Return initial LoRA A values: float32, uniform in ±1/√fan_in, drawn on the host from seed and parameter name.

    The bound is Kaiming's uniform initialization with a = √5, which mlx-lm and PEFT use.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    bound = 1 / math.sqrt(fan_in)
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def matching_keys(layers: Sequence[Sequence[str]], names: list[str] | str) -> list[str]:
    """Return the paths within a layer (``self_attn.q_proj``) whose last part is one of ``names``, sorted.

    Args:
        layers: paths of the linear modules of each layer.
        names: ``auto`` for every path.

    Raises:
        UserError: a name matches no path; the message lists the existing ones.
    """
    paths = {path for layer in layers for path in layer}
    if names == "auto":
        if not paths:
            raise UserError("lora_target_modules: this model's layers have no linear modules; use another base")
        return sorted(paths)
    available = sorted({_last_part(path) for path in paths})
    for name in names:
        if name not in available:
            raise UserError(
                f"lora_target_modules: this model has no {name}; it has {', '.join(available)}, and auto names them all"
            )
    return sorted(path for path in paths if _last_part(path) in names)


def settled_modules(config: TrainingConfig, layers: Sequence[Sequence[str]]) -> tuple[TrainingConfig, list[str]]:
    """Return the config with its target modules resolved for a base, and notes for the user.

    ``auto`` applies if the config names no modules and some layer of the base lacks a default one.
    """
    names = config.lora_target_modules
    if not isinstance(names, DefaultModules) or config.fine_tune_type == "full":
        return config, []
    complete = sum(set(names) <= {_last_part(path) for path in paths} for paths in layers)
    if complete == len(layers):
        return config, []
    note = (
        f"lora_target_modules is auto, all linear modules: {', '.join(names)} are in {complete} of this base's "
        f"{len(layers)} layers"
    )
    return replace(config, lora_target_modules="auto"), [note]


def coverage(layers: Sequence[Sequence[str]], adapter: dict[str, Any]) -> str:
    """Return the part of a model that an adapter trains, such as "12 of 48 layers, 7 modules".

    Args:
        layers: paths of the linear modules of each layer.
        adapter: see ``describe``.
    """
    keys = set(adapter["lora_parameters"]["keys"])
    last = layers[-adapter["num_layers"] :]
    if not keys:
        return f"{len(last)} of {len(layers)} layers, all weights"
    touched = [keys & set(paths) for paths in last]
    count = len(set().union(*touched))
    return f"{sum(map(bool, touched))} of {len(layers)} layers, {count} module{'s' if count > 1 else ''}"


def _last_part(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def describe(config: TrainingConfig, depth: int, keys: list[str]) -> dict[str, Any]:
    """Return the ``adapter_config.json`` of a fresh adapter.

    Args:
        depth: number of layers of the model.
        keys: paths within a layer of the modules to adapt; none for full fine-tuning.
    """
    scale = config.lora_alpha / (math.sqrt(config.lora_rank) if config.use_rslora else config.lora_rank)
    return {
        "fine_tune_type": config.fine_tune_type,
        "num_layers": min(config.num_layers or depth, depth),
        "lora_parameters": {
            "rank": config.lora_rank,
            "scale": scale,
            "dropout": config.lora_dropout,
            "keys": keys,
        },
    }


def read_description(directory: Path) -> dict[str, Any]:
    """Read the ``adapter_config.json`` of a directory.

    Raises:
        OSError, ValueError: it is missing, not JSON, or does not describe an adapter.
    """
    described = json.loads(read_text(directory / ADAPTER_CONFIG))
    if not isinstance(described, dict):
        raise ValueError("it is no object")
    kind, parameters = described.get("fine_tune_type", "lora"), described.get("lora_parameters", {})
    if kind not in ("lora", "dora", "full"):
        raise ValueError("fine_tune_type is none of lora, dora and full")
    if not isinstance(described.get("num_layers"), int):
        raise ValueError("num_layers is no whole number")
    if not isinstance(parameters, dict):
        raise ValueError("lora_parameters is no object")
    if not isinstance(parameters.get("scale", 1.0 if kind == "full" else None), (int, float)):
        raise ValueError("lora_parameters has no scale")
    return described


def check_description(directory: Path) -> dict[str, Any]:
    """Read the ``adapter_config.json`` of a run.

    Raises:
        UserError: it is missing, not JSON, or does not describe an adapter.
    """
    try:
        return read_description(directory)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{directory / ADAPTER_CONFIG}: this does not describe an adapter of mlx-lm ({first_line(error)}); "
            "train it again"
        ) from error


def read_ref(directory: Path, name: str) -> int | None:
    """Return the generation that a ref names; ``None`` if it names none."""
    try:
        text = read_text(directory / REFS / name, 100).strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None


def generation_path(directory: Path, number: int) -> Path:
    """Return the path of a generation, which never changes."""
    return (directory / GENERATIONS / f"{number:04d}").resolve()


def has_generations(directory: Path) -> bool:
    """Return True if a directory holds generations of an adapter, of this version or an earlier one."""
    return any((directory / name).is_dir() for name in (GENERATIONS, REFS)) or (directory / LIVE).is_symlink()


def published(directory: Path) -> Path:
    """Return the directory of an adapter's files: the live generation, or the directory itself.

    A generation never changes. Whoever reads more than one file of an adapter finds its directory once, and reads
    them all there, while the next generation may go live. Earlier versions wrote no refs, only the link.
    """
    number = read_ref(directory, LIVE)
    if number is not None:
        return generation_path(directory, number)
    try:
        return (directory / os.readlink(directory / LIVE)).resolve()
    except OSError:
        return directory


def base_recorded(directory: Path) -> str | None:
    """Return the fingerprint of the base that an adapter was trained on; ``None`` if none is recorded."""
    try:
        recorded = read_description(directory).get("base_fingerprint")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return recorded if isinstance(recorded, str) else None


def write_description(directory: Path, base: ResolvedModel, adapter: dict[str, Any]) -> None:
    """Write ``adapter_config.json``, with the base that the adapter was trained on."""
    model = str(base.path) if base.revision is None else base.name
    about = {"model": model, "base_fingerprint": base.fingerprint}
    write_json(directory / ADAPTER_CONFIG, {**about, **adapter})


def check_can_begin_from(described: dict[str, Any], adapter: dict[str, Any]) -> None:
    """Raise ValueError if an adapter differs in kind or size from the one that starts from it."""
    different = [key for key in adapter if _shape(described.get(key)) != _shape(adapter[key])]
    if different:
        raise ValueError(f"its {different[0]} differs from this run's config")


def _shape(described: Any) -> Any:
    """Return the settings that two adapters must share for one to start from the other: all but dropout."""
    return {k: v for k, v in described.items() if k != "dropout"} if isinstance(described, dict) else described


def check_shapes(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless names and shapes are the same; the message gives one that differs."""
    if found != expected:
        odd = sorted(set(found) ^ set(expected)) or [name for name in found if found[name] != expected[name]]
        raise ValueError(f"{odd[0]} is missing, unknown or of another shape")
