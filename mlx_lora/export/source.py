"""Export source: a run's adapter with its base, or a base model alone, before loading."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends import Backend, load_backend
from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, published
from ..errors import UserError, first_line
from ..models.resolve import BUILT_IN, ResolvedModel, check_safetensors, is_local, resolve_model
from ..runs.directory import RUN_FILE, base_of, check_exists, is_run, other_base, read_trained
from ..user_files import read_text


@dataclass
class Source:
    """Model to export.

    Attributes:
        name: run directory or model name as given by the user.
        config: the base's ``config.json``, with keys that transformers 5 moved put back in their former place.
        adapter: the run's directory, ``None`` for a base model alone.
        adapter_config: content of mlx-lm's ``adapter_config.json``.
        run: content of the run's ``run.json``.
    """

    name: str
    model: ResolvedModel
    config: dict[str, Any]
    adapter: Path | None
    adapter_config: dict[str, Any]
    run: dict[str, Any]

    def load(self) -> Backend:
        """Load the model with its adapter in MLX, the reference of every export."""
        backend = load_backend(self.model, "mlx")
        if self.adapter is not None:
            backend.load_adapter(self.adapter)
        return backend


def read_source(name: str, needs_adapter: bool = False) -> Source:
    """Read a run directory, or a base model by name or directory.

    Args:
        needs_adapter: accept only a run.

    Raises:
        UserError: there is no such run or model, the run has no adapter yet, its base's weights have changed, or one
            of its files is broken.
    """
    directory = Path(name)
    if not is_run(directory):
        if needs_adapter:
            if not directory.exists() and name not in BUILT_IN:
                raise UserError(f"{name}: there is no such run directory; name one that `train` made")
            raise UserError(
                f"{name}: this is not a run directory (there is no {RUN_FILE} in it); name one that `train` made"
            )
        check_exists(name)
        try:
            model = resolve_model(name)
        except UserError as error:
            if is_local(name):
                raise
            raise UserError(f"{error} (and there is no run directory {name} here)") from None
        return Source(name, model, _config(model), None, {}, {})
    directory = published(directory)
    run = read_trained(directory)
    model = base_of(run, directory)
    if (other := other_base(run, directory, model)) is not None:
        raise UserError(f"{name}: {other}")
    check_safetensors(directory / ADAPTER_FILE)
    return Source(name, model, _config(model), directory, _adapter_config(directory), run)


def _config(model: ResolvedModel) -> dict[str, Any]:
    return {**json.loads(read_text(model.path / "config.json")), **model.config_overrides}


def _adapter_config(directory: Path) -> dict[str, Any]:
    file = directory / ADAPTER_CONFIG
    try:
        content = json.loads(read_text(file))
        kind, layers = content.get("fine_tune_type", "lora"), content["num_layers"]
        known = kind == "full" or isinstance(content["lora_parameters"]["scale"], (int, float))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: this does not describe an adapter of mlx-lm ({first_line(error)}); train it again"
        ) from error
    if kind not in ("lora", "dora", "full") or not isinstance(layers, int) or not known:
        raise UserError(f"{file}: this does not describe an adapter of mlx-lm; train it again")
    return content
