"""GGUF architectures: tensor names, row permutations and biases of each model type that the writer supports.

To add an architecture, add a module here with its ``ARCHITECTURE``; nothing else changes, unless it has tensors that
no other has.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ....errors import UserError, guarded

LAYER = "model.layers.{}."


@dataclass(frozen=True)
class Architecture:
    """Description of one architecture in GGUF.

    Attributes:
        name: GGUF's name (``general.architecture``).
        model_types: values of ``model_type`` in ``config.json``.
        permuted: modules whose rows are permuted in GGUF, with the config key that holds their number of heads.
        biases: modules whose biases llama.cpp reads.
        refuses: returns the reason why a config of this architecture cannot be written, or ``None``.
    """

    name: str
    model_types: tuple[str, ...]
    permuted: dict[str, str]
    biases: tuple[str, ...] = ()
    refuses: Callable[[dict[str, Any]], str | None] = lambda config: None


@cache
def architectures() -> dict[str, Architecture]:
    """Return every architecture, by the config's ``model_type``."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {kind: module.ARCHITECTURE for module in modules for kind in module.ARCHITECTURE.model_types}


def find_architecture(config: dict[str, Any], where: str) -> Architecture:
    """Return the architecture of a ``config.json``; ``where`` names the model in errors.

    Raises:
        UserError: it is not supported here, or the config has a setting that GGUF cannot express.
    """
    kind = config.get("model_type")
    found = architectures().get(str(kind))
    if found is None:
        raise UserError(
            f"{where}: the architecture {kind} cannot be written as GGUF yet; those that can are "
            f"{', '.join(sorted(architectures()))} (`mlx-lora fuse` works for others too)"
        )
    with guarded(f"{where}: its config.json cannot be used", "; download the model again"):
        reason = _unsaid(config) or found.refuses(config)
    if reason:
        raise UserError(f"{where}: {reason}, which cannot be written as GGUF; use `mlx-lora fuse` instead")
    return found


def _unsaid(config: dict[str, Any]) -> str | None:
    """Return the config setting that GGUF would leave out, for any architecture here, or ``None``."""
    activation = config.get("hidden_act") or config.get("hidden_activation") or "silu"
    if activation not in ("silu", "swish"):
        return f"its activation is {activation}, and llama.cpp computes silu for it"
    share = config.get("partial_rotary_factor") or (config.get("rope_parameters") or {}).get("partial_rotary_factor")
    if share not in (None, 1, 1.0):
        return f"only {share} of each head is rotated (partial_rotary_factor)"
    if "sliding_attention" in (config.get("layer_types") or ()):
        return "some of its layers attend to a sliding window"
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    # Qwen's configs set a window that only this key enables, for the layers after the first max_window_layers.
    layers = config.get("num_hidden_layers") or 0
    used = config.get("use_sliding_window", True) and (config.get("max_window_layers") or 0) < layers
    if window and used and not config.get("layer_types") and (context is None or window < context):
        return f"it attends to a sliding window of {window} tokens"
    return None


def gguf_name(architecture: Architecture, layers: int, name: str) -> str:
    """Return GGUF's name of a HF tensor: ``model.layers.0.self_attn.q_proj.weight`` → ``blk.0.attn_q.weight``.

    Args:
        layers: number of layers of the model.

    Raises:
        UserError: the architecture has no such tensor.
    """
    module = name.removesuffix(".bias").rpartition(".")[2]
    if name.endswith(".bias") and module not in architecture.biases:
        raise UserError(
            f"{name}: llama.cpp reads no such bias in the architecture {architecture.name}; use `mlx-lora fuse` instead"
        )
    found = _names(architecture.name, layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise UserError(
            f"{name}: the architecture {architecture.name} has no such tensor in GGUF; is this another kind of model?"
        )
    return found


@cache
def _names(architecture: str, layers: int) -> Any:
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    number = {name: number for number, name in MODEL_ARCH_NAMES.items()}[architecture]
    return get_tensor_name_map(MODEL_ARCH(number), layers)


def heads_of(architecture: Architecture, config: dict[str, Any], name: str) -> int | None:
    """Return the number of heads of a module whose rows GGUF permutes, ``None`` if it does not."""
    for module, key in architecture.permuted.items():
        if f".{module}." in f"{name}.":
            return int(config.get(key) or config["num_attention_heads"])
    return None


def permute_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """Permute rows [heads · (2 · half), ...] to the order of GGUF's llama: each head's two halves interleaved.

    Hugging Face rotates dimension i with i + half, llama.cpp's llama rotates neighbours. Weights, biases and a LoRA's
    ``lora_b`` [rows, rank] are permuted alike.
    """
    rows, rest = values.shape[0], values.shape[1:]
    return values.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(values.shape)


def unpermute_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """Invert :func:`permute_rows`."""
    rows, rest = values.shape[0], values.shape[1:]
    return values.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(values.shape)
