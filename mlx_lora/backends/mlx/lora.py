"""LoRA and DoRA layers on MLX, and full fine-tuning of the last layers; mlx-lm's names and format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRASwitchLinear

from ...config import TrainingConfig
from ...errors import UserError
from ..adapter_format import check_shapes, describe, initial_a, matching_keys
from ..errors import check_full

LINEAR = (nn.Linear, nn.QuantizedLinear)
EXPERTS = (SwitchLinear, QuantizedSwitchLinear)

# PRNG keys of the masks, innermost last; MLX's global state where there is none.
_keys: list[mx.array] = []


@contextmanager
def drawn_from(key: mx.array) -> Iterator[None]:
    """Draw the dropout masks in the block from a PRNG key."""
    # The key may be an input of a differentiated function, and has no gradient.
    _keys.append(mx.stop_gradient(key))
    try:
        yield
    finally:
        _keys.pop()


def new_key() -> mx.array:
    """Draw a PRNG key from MLX's global state."""
    return mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)


class Dropout(nn.Module):
    """Dropout as in MLX, with masks that ``drawn_from`` can repeat."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self._kept = 1 - p

    def __call__(self, x: mx.array) -> mx.array:
        """Return the input with dropout applied in training mode."""
        if self._kept == 1 or not self.training:
            return x
        key = None
        if _keys:
            _keys[-1], key = mx.random.split(_keys[-1])
        return (mx.random.bernoulli(self._kept, x.shape, key=key) * x) * (1 / self._kept)


class LoRALinear(nn.Module):
    """LoRA linear layer W·x + scale·B·A·x, with mlx-lm's parameter names.

    Unlike mlx-lm's, both LoRA products are computed in the dtype of ``x``, from float32 master weights.

    Attributes:
        lora_a: float32 [in, rank].
        lora_b: float32 [rank, out], initialised to zero.
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        if isinstance(linear, nn.QuantizedLinear):
            columns = columns * 32 // linear.bits
        self.linear = linear
        self.dropout = Dropout(dropout)
        self.scale = scale
        self.lora_a = mx.zeros((columns, rank))
        self.lora_b = mx.zeros((rank, rows))

    def __call__(self, x: mx.array) -> mx.array:
        """Return W·x + scale·B·A·x in the dtype of the input."""
        update = (self.dropout(x) @ self.lora_a.astype(x.dtype)) @ self.lora_b.astype(x.dtype)
        return self.linear(x) + self.scale * update


def layer_modules(model: nn.Module) -> list[list[str]]:
    """Return the paths of the linear modules in each layer that mlx-lm adapts."""
    return [sorted(path for path, module in layer.named_modules() if _is_linear(module)) for layer in model.layers]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, LINEAR + EXPERTS) or hasattr(module, "to_lora")


def _adapted(module: nn.Module, kind: str, parameters: dict[str, Any]) -> nn.Module:
    made = _with_lora(module, kind, parameters)
    # mlx-lm's LoRA layers and ours.
    made.dropout = Dropout(parameters["dropout"])
    return made


def _with_lora(module: nn.Module, kind: str, parameters: dict[str, Any]) -> nn.Module:
    rank, scale, dropout = parameters["rank"], parameters["scale"], parameters["dropout"]
    if kind == "dora" and not isinstance(module, LINEAR):
        raise UserError("fine_tune_type: dora does not work on this model's experts; use lora, or other modules")
    if kind != "dora" and hasattr(module, "to_lora"):
        # A fused linear layer, or another one specific to the architecture.
        return module.to_lora(r=rank, scale=scale, dropout=dropout)
    if isinstance(module, EXPERTS):
        return LoRASwitchLinear.from_base(module, rank, dropout, scale)
    if kind == "dora":
        return DoRALinear.from_base(module, rank, dropout, scale)
    return LoRALinear(module, rank, scale, dropout)


def add_adapter(model: nn.Module, adapter: dict[str, Any]) -> None:
    """Add the adapter that an mlx-lm ``adapter_config.json`` describes; freeze all other parameters.

    Args:
        adapter: ``fine_tune_type`` (lora, dora or full), ``num_layers`` (the last N) and ``lora_parameters``.
    """
    model.freeze()
    layers = model.layers[-adapter["num_layers"] :]
    kind = adapter.get("fine_tune_type", "lora")
    if kind == "full":
        for layer in layers:
            layer.unfreeze()
        return
    parameters = adapter["lora_parameters"]
    for layer in layers:
        found = [(path, module) for path, module in layer.named_modules() if path in parameters["keys"]]
        adapted = [(path, _adapted(module, kind, parameters)) for path, module in found]
        layer.update_modules(tree_unflatten(adapted))
    for _, module in model.named_modules():
        if "lora_a" in module:
            module.unfreeze(keys=["lora_a", "lora_b", "m"], recurse=False)


@dataclass(frozen=True)
class BaseLayers:
    """Modules and parameters of a base's layers, as they are without an adapter.

    Attributes:
        modules: (layer, path, module) of what an adapter may take the place of.
    """

    modules: list[tuple[nn.Module, str, nn.Module]]
    parameters: list[dict[str, mx.array]]

    @classmethod
    def of(cls, model: nn.Module) -> BaseLayers:
        """Note those of a model without an adapter; nothing is copied."""
        modules = [(layer, p, m) for layer in model.layers for p, m in layer.named_modules() if _is_linear(m)]
        return cls(modules, [dict(tree_flatten(layer.parameters())) for layer in model.layers])

    def restore(self, model: nn.Module) -> None:
        """Take the adapter out of the model."""
        for layer, path, module in self.modules:
            layer.update_modules(tree_unflatten([(path, module)]))
        for layer, parameters in zip(model.layers, self.parameters, strict=True):
            layer.update(tree_unflatten(list(parameters.items())))
        model.freeze()


def start_adapter(model: nn.Module, config: TrainingConfig) -> dict[str, Any]:
    """Add a fresh adapter by the config; return its ``adapter_config.json``.

    Raises:
        UserError: the model lacks a target module, or full fine-tuning of a base that does not allow it.
    """
    full = config.fine_tune_type == "full"
    if full:
        quantized = any(isinstance(m, (nn.QuantizedLinear, QuantizedSwitchLinear)) for _, m in model.named_modules())
        check_full(quantized, any(value.dtype == mx.float16 for _, value in tree_flatten(model.parameters())))
    keys = [] if full else matching_keys(layer_modules(model), config.lora_target_modules)
    adapter = describe(config, len(model.layers), keys)
    add_adapter(model, adapter)
    drawn = [
        # A LoRA of experts is [experts · rank, in], a plain one [in, rank].
        (name, mx.array(initial_a(config.seed, name, value.shape, value.shape[0 if value.ndim == 2 else -1])))
        for name, value in tree_flatten(model.trainable_parameters())
        # Each product of a fused layer has its own LoRA.
        if "lora_a" in name.split(".")
    ]
    model.update(tree_unflatten(drawn))
    mx.eval(model.parameters())
    return adapter


def load_weights(model: nn.Module, weights: Any) -> None:
    """Set the trainable parameters, by name.

    Raises:
        ValueError: names or shapes differ from the model's.
    """
    expected = {name: value.shape for name, value in tree_flatten(model.trainable_parameters())}
    check_shapes({name: value.shape for name, value in weights.items()}, expected)
    model.update(tree_unflatten(list(weights.items())))


def stored_weights(model: nn.Module) -> dict[str, mx.array]:
    """Return the trainable parameters by name."""
    return dict(tree_flatten(model.trainable_parameters()))
