"""LoRA and DoRA adapter reader: a run's adapter, checked against its base's shapes before an export."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE
from ..backends.mlx.layer_streaming import load_lazily
from ..config import TrainingConfig
from ..errors import UserError
from ..files import writing
from ..models.parameters import trainable_parameters
from ..models.resolve import ResolvedModel, check_safetensors
from ..user_files import read_text
from .source import Source, read_source
from .tensors import stored_tensors
from .verification import ExportCheck, equal

# (out, in) of each matrix, by the module's path.
Shapes = dict[str, tuple[int, int]]


@dataclass
class LoraWeights:
    """LoRA weights of one module, as MLX arrays in the dtype of the file.

    Attributes:
        a: [in, rank].
        b: [rank, out].
        m: DoRA magnitudes [out], ``None`` for LoRA.
    """

    a: Any
    b: Any
    m: Any = None


@dataclass
class Adapter:
    """LoRA or DoRA adapter, as stored on disk.

    Attributes:
        scale: factor of the product of the two matrices; alpha in other formats is scale · rank.
        pairs: LoRA weights by the module's path in the model, ``model.layers.0.self_attn.q_proj``.
    """

    source: Source
    kind: str
    rank: int
    scale: float
    dropout: float
    pairs: dict[str, LoraWeights]

    @property
    def alpha(self) -> float:
        """LoRA alpha of other formats: scale · rank."""
        return alpha_of(self.scale, self.rank)


def alpha_of(scale: float, rank: int) -> float:
    """Return the alpha that gives exactly this scale when divided by the rank, if there is such a float."""
    alpha = scale * rank
    near = (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, 0))
    return next((value for value in near if value / rank == scale), alpha)


def read_adapter(run: str | Path, into: str) -> Adapter:
    """Read the adapter of a run and check it against its base.

    Args:
        into: the export's target, for the error that refuses full fine-tuning.

    Raises:
        UserError: see ``read_source``; a broken adapter, one of another base, or one that is not LoRA.
    """
    source = read_source(str(run), needs_adapter=True)
    assert source.adapter is not None
    config, file = source.adapter_config, source.adapter / ADAPTER_FILE
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        raise UserError(
            f"{run}: this run trained whole layers, which {into} cannot hold; use `mlx-lora fuse` or export gguf"
        )
    try:
        parameters = config["lora_parameters"]
        rank, scale = int(parameters["rank"]), float(parameters["scale"])
        dropout = float(parameters.get("dropout", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source.adapter / ADAPTER_CONFIG}: this is not an adapter's config ({error})") from error
    pairs = _pairs(file, read_arrays(file))
    check_fit(file, pairs, rank, source.model)
    check_range(file, pairs, scale, source.model)
    return Adapter(source, kind, rank, scale, dropout, pairs)


def read_arrays(file: Path) -> dict[str, Any]:
    """Read a safetensors file as MLX arrays.

    Raises:
        UserError: it is truncated or broken, or holds a non-finite number.
    """
    import mlx.core as mx

    try:
        check_safetensors(file)
        arrays: dict[str, Any] = mx.load(str(file))  # type: ignore[assignment]
    except (UserError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{file}: this adapter is truncated or broken; restore it from a copy, or train again"
        ) from error
    for name, value in arrays.items():
        if not bool(mx.all(mx.isfinite(value))):
            raise UserError(f"{file}: {name} holds a number that is not finite, so the training of it had failed")
    return arrays


def write_arrays(file: Path, arrays: dict[str, Any], format_name: str) -> None:
    """Write MLX arrays as safetensors.

    Args:
        format_name: "mlx", or "pt" for PEFT.

    Raises:
        UserError: the disk is full, or the write fails.
    """
    import mlx.core as mx

    with writing(file):
        try:
            mx.save_safetensors(str(file), arrays, metadata={"format": format_name})
        except RuntimeError as error:
            raise OSError(str(error)) from error


def _pairs(file: Path, arrays: dict[str, Any]) -> dict[str, LoraWeights]:
    """Group the arrays by module; refuse experts and embeddings, which no export format here can hold."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in arrays.items():
        path, _, part = name.rpartition(".")
        if part not in ("lora_a", "lora_b", "m"):
            raise UserError(f"{file}: {name} is not part of a LoRA adapter; use `mlx-lora fuse` instead")
        found.setdefault(path, {})[part] = value
    for path, parts in found.items():
        if not {"lora_a", "lora_b"} <= set(parts):
            raise UserError(f"{file}: {path} has only one of its two matrices, so this adapter is broken")
        if any(parts[part].ndim != 2 for part in ("lora_a", "lora_b")):
            raise UserError(f"{file}: {path} is a layer of experts, which no export here can hold")
    if not found:
        raise UserError(f"{file}: there is nothing in this adapter; train it first")
    return {path: LoraWeights(parts["lora_a"], parts["lora_b"], parts.get("m")) for path, parts in found.items()}


def check_fit(file: Path, pairs: dict[str, LoraWeights], rank: int, base: ResolvedModel) -> None:
    """Raise UserError if a module is not in the base or has another shape there."""
    known = linear_layers(load_lazily(base))
    for path, pair in pairs.items():
        if path not in known:
            raise UserError(f"{file}: {base.name} has no {path}, so this adapter belongs to another base")
        out, columns = known[path]
        shapes = (tuple(pair.a.shape), tuple(pair.b.shape), None if pair.m is None else tuple(pair.m.shape))
        if shapes != ((columns, rank), (rank, out), None if pair.m is None else (out,)):
            raise UserError(
                f"{file}: {path} is {pair.b.shape[1]} × {pair.a.shape[0]} of rank {pair.a.shape[1]}, and should be "
                f"{out} × {columns} of rank {rank}: this adapter is broken, or not one of {base.name}"
            )


def check_range(file: Path, pairs: dict[str, LoraWeights], scale: float, base: ResolvedModel) -> None:
    """Raise UserError if a weight update (ΔW) overflows the dtype of the base's weights."""
    import mlx.core as mx

    half = any(tensor.dtype == "F16" for tensor in stored_tensors(base.path).values())
    # bfloat16 has nearly the range of float32.
    limit, dtype = (65504.0, "F16") if half else (3.38e38, "F32")
    for path, pair in pairs.items():
        a, b = pair.a.astype(mx.float32), pair.b.astype(mx.float32)
        # No entry of a @ b exceeds (largest row norm of a) · (largest column norm of b), enough for most adapters.
        rows = _number(mx.linalg.norm(a, axis=1).max()) * _number(mx.linalg.norm(b, axis=0).max())
        if abs(scale) * rows <= limit:
            continue
        added = _number(mx.abs(a @ b * scale).max())
        if not added <= limit:
            raise UserError(
                f"{file}: on {path} the adapter adds {added:.3g}, which is too large for the base's {dtype}, or not "
                "finite at all; look at how the adapter was trained"
            )


def _number(value: Any) -> float:
    return float(value.item())


def differing(again: dict[str, LoraWeights], wanted: dict[str, LoraWeights]) -> int:
    """Count the arrays that are not bitwise equal, including those that only one side has."""
    import mlx.core as mx

    def arrays(pairs: dict[str, LoraWeights]) -> dict[tuple[str, str], Any]:
        return {(path, part): getattr(pair, part) for path, pair in pairs.items() for part in ("a", "b", "m")}

    ours, theirs = arrays(wanted), arrays(again)

    def same(one: Any, other: Any) -> bool:
        if one is None or other is None:
            return one is other
        return one.dtype == other.dtype and bool(mx.array_equal(one, other))

    return sum(not same(ours.get(key), theirs.get(key)) for key in set(ours) | set(theirs))


def counted(adapter: Adapter, stored: int, complete: bool = True) -> list[ExportCheck]:
    """Check the number of parameters against the run's config, if that predicts it (an imported run's may not).

    Args:
        complete: every module of the run was stored.
    """
    try:
        training = TrainingConfig(**_known_keys(adapter.source.run["learned_from"]))
        predicted = trainable_parameters(adapter.source.config, training)
    except (KeyError, TypeError, ValueError):
        return []
    return [equal("parameters", stored, predicted)] if predicted is not None and complete else []


def _known_keys(training_fingerprint: dict[str, Any]) -> dict[str, Any]:
    wanted = ("lora_rank", "fine_tune_type", "lora_target_modules", "num_layers")
    return {key: training_fingerprint[key] for key in wanted}


def base_matrices(path: Path) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every matrix of a model directory by module path, from the headers; quantized ones too."""
    shapes = {name: tensor.shape for name, tensor in stored_tensors(path).items()}
    config = json.loads(read_text(path / "config.json"))
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    found: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        module, _, part = name.rpartition(".")
        if part != "weight" or len(shape) != 2:
            continue
        columns = shape[1]
        if f"{module}.scales" in shapes:
            own = quantization.get(module)
            group = (own if isinstance(own, dict) else quantization)["group_size"]
            columns = shapes[f"{module}.scales"][1] * group
        found[module] = (shape[0], columns)
    return found


def is_quantized(path: Path) -> bool:
    """Return True if a model directory holds MLX's quantized weights."""
    config = json.loads(read_text(path / "config.json"))
    return bool(config.get("quantization"))


def linear_layers(model: Any) -> Shapes:
    """Return the linear layers of a model of mlx-lm."""
    import mlx.nn as nn

    modules = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.QuantizedLinear)):
            rows, columns = module.weight.shape
            bits = module.bits if isinstance(module, nn.QuantizedLinear) else 32
            modules[path] = (rows, columns * 32 // bits)
    return modules
