"""Export support of a base, known before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import TrainingConfig
from ..models.inspection import read_object
from ..models.resolve import ResolvedModel

if TYPE_CHECKING:
    from .source import Source


def possible_exports(model: ResolvedModel, config: TrainingConfig) -> str | None:
    """Return one line: the exports that a run on a base allows, and what the others need; ``None`` without MLX."""
    try:
        from .merged_weights import foreign_quantization
        from .source import Source
    except ImportError:
        return None
    config_file = {**read_object(model.path / "config.json"), **model.config_overrides}
    source = Source(model.name, model, config_file, None, {}, {}, model.path)
    method = foreign_quantization(source.config)
    fused = "fuse" if method is None else f"fuse (modules that are not quantized by {method})"
    parts = [fused, *(["peft"] if config.fine_tune_type != "full" and method is None else [])]
    return f"{', '.join(parts)}; gguf and ollama {_gguf(source)}"


def _gguf(source: Source) -> str:
    from .gguf.converter import PACKAGE, find_converter
    from .gguf.writer import refused_here

    if refused_here(source) is None:
        return "with the own writer"
    converter = find_converter(None)
    if converter is None:
        return f"only through upstream's converter, which is not installed (`uv tool install {PACKAGE}`)"
    return f"through upstream's converter, {converter[0]}, where it knows the architecture"
