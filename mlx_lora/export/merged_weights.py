"""Merged weights: the tensors of a base's files, in their names and shapes, with a run's adapter attached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..backends.adapter_format import ADAPTER_FILE
from ..backends.mlx.layer_streaming import load_lazily
from ..errors import UserError, first_line
from .hub_names import HubNames, hub_names, is_floating
from .merge import Weight
from .source import Source
from .tensors import Stored, read_header, stored_tensors, to_float32

PARTS = ("lora_a", "lora_b", "m")


def read_weights(source: Source) -> dict[str, Weight]:
    """Read every tensor of the model, with its part of the adapter, by Hugging Face's name.

    Raises:
        UserError: the adapter does not fit its base, or the base's storage format cannot be read.
    """
    stored = stored_tensors(source.model.path)
    weights = {name: _weight(name, stored, source) for name in stored if not _is_part(name, stored)}
    if source.adapter is not None:
        _put_adapter(source, weights)
    return weights


def _is_part(name: str, stored: dict[str, Stored]) -> bool:
    """Return True if a tensor belongs to a quantized weight."""
    stem, _, kind = name.rpartition(".")
    return kind in ("scales", "biases") and f"{stem}.weight" in stored


def _weight(name: str, stored: dict[str, Stored], source: Source) -> Weight:
    tensor = stored[name]
    module = name.removesuffix(".weight")
    if f"{module}.scales" not in stored:
        return Weight(name, tensor.shape, tensor.dtype, {"weight": tensor})
    settings = _quantization(source, module)
    columns = tensor.shape[-1] * 32 // settings["bits"]
    parts = {key: stored[f"{module}.{key}"] for key in ("weight", "scales", "biases") if f"{module}.{key}" in stored}
    dtype = parts["scales"].dtype if parts["scales"].dtype in ("F32", "F16", "BF16") else "BF16"
    return Weight(name, (*tensor.shape[:-1], columns), dtype, parts, quantized=settings)


def foreign_quantization(config: dict[str, Any]) -> str | None:
    """Return the quantization method of a base, if it is not MLX's."""
    if "quantization" in config or not isinstance(config.get("quantization_config"), dict):
        return None
    return str(config["quantization_config"].get("quant_method"))


def check_readable(source: Source, parameter: str, weight: Weight | None) -> None:
    """Raise UserError if a weight is quantized by another program; ``None`` is a weight made of several tensors."""
    method = foreign_quantization(source.config)
    if method is not None and (weight is None or not is_floating(weight.stored)):
        raise UserError(
            f"{source.model.name}: {parameter} is quantized by {method}, which cannot be changed here; use the model "
            "in bfloat16, or as mlx_lm.convert quantizes it, or adapt other modules"
        )


def _quantization(source: Source, module: str) -> dict[str, Any]:
    whole = source.config.get("quantization") or source.config.get("quantization_config") or {}
    own = whole.get(module)
    settings = own if isinstance(own, dict) else whole
    try:
        return {
            "group_size": int(settings["group_size"]),
            "bits": int(settings["bits"]),
            "mode": settings.get("mode", "affine"),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source.model.path / 'config.json'}: {module} is quantized and the config does not say how "
            f"({first_line(error)}); download the model again"
        ) from error


def _put_adapter(source: Source, weights: dict[str, Weight]) -> None:
    """Attach a run's adapter to the weights that it changes.

    Raises:
        UserError: the adapter does not fit its base, or a module of mlx-lm is not a tensor of the files.
    """
    assert source.adapter is not None
    model = load_lazily(source.model)
    names = hub_names(source.model, stored_tensors(source.model.path))
    tensors = read_header(source.adapter / ADAPTER_FILE)
    full = source.adapter_config.get("fine_tune_type") == "full"
    changes = (_trained if full else _adapted)(source, tensors, weights, names, model)
    for name, change in names.taken_back(changes).items():
        weights[name].change = change


def _trained(
    source: Source, tensors: dict[str, Stored], weights: dict[str, Weight], names: HubNames, model: Any
) -> dict[str, Any]:
    """Replace the base's tensors with fully trained ones; return the changes of those with another form in mlx-lm."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    assert source.adapter is not None
    file = source.adapter / ADAPTER_FILE
    before = dict(tree_flatten(model.parameters()))
    changes = {}
    for name, tensor in tensors.items():
        if name not in before or not names.known(name) or tuple(before[name].shape) != tensor.shape:
            raise UserError(f"{file}: {name} has no place in {source.model.name}; is it another model's?")
        if name in names.same:
            weights[names.same[name]].parts = {"weight": tensor}
        else:
            after = mx.array(to_float32(tensor.read(), tensor.dtype))
            changes[name] = after - before[name].astype(mx.float32)
    return changes


def _adapted(
    source: Source, tensors: dict[str, Stored], weights: dict[str, Weight], names: HubNames, model: Any
) -> dict[str, Any]:
    """Attach LoRA and DoRA matrices to their weights; return the changes of weights with another form in mlx-lm."""
    from mlx.utils import tree_flatten

    assert source.adapter is not None
    file = source.adapter / ADAPTER_FILE
    scale = float(source.adapter_config["lora_parameters"]["scale"])
    before = dict(tree_flatten(model.parameters()))
    changes = {}
    for module, parts in _by_module(file, tensors).items():
        name = f"{module}.weight"
        if name not in before or not names.known(name):
            raise UserError(f"{file}: {source.model.name} has no {module}, so the adapter is another model's")
        weight = weights[names.same[name]] if name in names.same else None
        check_readable(source, name, weight)
        shape = tuple(before[name].shape) if weight is None else weight.shape
        _check_parts(file, name, shape, parts)
        if weight is not None and len(shape) == 2:
            weight.adapter, weight.scale = parts, scale
        elif weight is not None:
            weight.change = _change(parts, scale, shape, before[name])
        else:
            changes[name] = _change(parts, scale, shape, before[name])
    return changes


def _by_module(file: Path, tensors: dict[str, Stored]) -> dict[str, dict[str, np.ndarray]]:
    """Group the adapter's arrays, as float32, by module and part."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part not in PARTS:
            raise UserError(f"{file}: {name} is not part of a LoRA adapter; train it again")
        found.setdefault(module, {})[part] = to_float32(tensor.read(), tensor.dtype)
    return found


def _change(parts: dict[str, np.ndarray], scale: float, shape: tuple[int, ...], before: Any) -> Any:
    """Return ΔW, the change an adapter makes to a weight of mlx-lm, as a lazy MLX array."""
    import mlx.core as mx

    a, b = mx.array(parts["lora_a"]), mx.array(parts["lora_b"])
    if len(shape) == 3:
        # Experts: [experts, rank, in] and [experts, out, rank].
        return (b * scale) @ a.reshape(shape[0], -1, shape[2])
    added = (b.T * scale) @ a.T
    if "m" not in parts:
        return added
    old = before.astype(mx.float32)
    merged = old + added
    return merged * (mx.array(parts["m"]) / mx.linalg.norm(merged, axis=1))[:, None] - old


def _check_parts(file: Path, name: str, shape: tuple[int, ...], parts: dict[str, np.ndarray]) -> None:
    a, b, m = (parts.get(part) for part in PARTS)
    if len(shape) == 3:
        fits = a is not None and b is not None and b.ndim == 3 and b.shape[:2] == shape[:2] and m is None
        fits = fits and a.shape[-1:] == shape[2:] and a.size == shape[0] * b.shape[2] * shape[2]  # type: ignore[union-attr]
    else:
        fits = a is not None and b is not None and a.ndim == b.ndim == len(shape) == 2 and a.shape[1] == b.shape[0]
        fits = fits and (b.shape[1], a.shape[0]) == shape and (m is None or m.shape == shape[:1])  # type: ignore[union-attr]
    if not fits:
        raise UserError(f"{file}: the matrices on {name} do not fit its shape {' × '.join(map(str, shape))}")
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise UserError(f"{file}: the adapter's numbers on {name} are not finite; train it again")
