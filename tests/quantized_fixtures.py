"""A base as mlx-lm itself quantizes it."""

from __future__ import annotations

import shutil
from pathlib import Path


def quantized(base: Path, out: Path | None = None) -> Path:
    """Quantize a model directory's weights to four bits, into ``out``, or in place."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model, quantize_model, save_config

    model, config = quantize_model(*load_model(base), group_size=32, bits=4)
    if out is not None:
        shutil.copytree(base, out, dirs_exist_ok=True)
        base = out
    mx.save_safetensors(str(base / "model.safetensors"), dict(tree_flatten(model.parameters())))
    save_config(config, base / "config.json")
    return base
