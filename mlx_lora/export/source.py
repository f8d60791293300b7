"""Export source: a run's adapter with its base, or a base model alone, before loading."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends import Backend, load_backend
from ..backends.adapter_format import check_description
from ..errors import UserError
from ..models.resolve import ResolvedModel
from ..runs.resolve import resolve_model_or_run
from ..user_files import read_text


@dataclass
class Source:
    """Model to export.

    Attributes:
        name: run directory or model name as given by the user.
        directory: of the run that was named, without the @ of a generation.
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
    directory: Path

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
    reference = resolve_model_or_run(name, needs_adapter)
    model = reference.base
    if reference.adapter is None:
        return Source(name, model, _config(model), None, {}, {}, reference.directory)
    if reference.other_base is not None:
        raise UserError(f"{name}: {reference.other_base}")
    adapter_config = check_description(reference.adapter)
    return Source(name, model, _config(model), reference.adapter, adapter_config, reference.run, reference.directory)


def _config(model: ResolvedModel) -> dict[str, Any]:
    return {**json.loads(read_text(model.path / "config.json")), **model.config_overrides}
