"""LoRA and DoRA layers on torch (PEFT), and full fine-tuning of the last layers; mlx-lm's names and layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from ...config import TrainingConfig
from ...errors import UserError
from ..adapter_format import check_shapes, describe, initial_a, matching_keys
from ..errors import check_full
from ..registry import library_fails

# PEFT's name for the only adapter in a model.
NAME = "default"
# PEFT's parameter names of a module, and mlx-lm's; mlx-lm transposes the two matrices.
PARTS = {
    f"lora_A.{NAME}.weight": "lora_a",
    f"lora_B.{NAME}.weight": "lora_b",
    f"lora_magnitude_vector.{NAME}.weight": "m",
}
TRANSPOSED = ("lora_a", "lora_b")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return a model's decoder layers.

    Raises:
        ValueError: the architecture keeps them elsewhere than Llama-like models do.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"the layers of a {type(model).__name__} are not where the torch backend looks for them")
    return layers


def layer_modules(model: nn.Module) -> list[list[str]]:
    """Return the paths of the linear modules in each layer; an empty list if the layers are not found."""
    try:
        layers = decoder_layers(model)
    except (AttributeError, ValueError):
        return []
    return [sorted(path for path, m in layer.named_modules() if isinstance(m, nn.Linear)) for layer in layers]


def add_adapter(model: nn.Module, adapter: dict[str, Any]) -> None:
    """Add the adapter that an mlx-lm ``adapter_config.json`` describes; freeze all other parameters.

    LoRA weights are float32, whatever the base's dtype.
    """
    model.requires_grad_(False)
    layers = decoder_layers(model)
    adapted = range(len(layers) - adapter["num_layers"], len(layers))
    kind = adapter.get("fine_tune_type", "lora")
    if kind == "full":
        for number in adapted:
            layers[number].requires_grad_(True)
        return
    parameters = adapter["lora_parameters"]
    prefix = next(name for name, module in model.named_modules() if module is layers)
    keys, numbers = "|".join(map(re.escape, parameters["keys"])), "|".join(map(str, adapted))
    config = LoraConfig(
        r=parameters["rank"],
        lora_alpha=parameters["rank"],
        lora_dropout=parameters["dropout"],
        target_modules=rf"{re.escape(prefix)}\.({numbers})\.({keys})",
        use_dora=kind == "dora",
    )
    try:
        inject_adapter_in_model(config, model, NAME)
    except ImportError as error:
        # PEFT imports each quantization library to test whether a module belongs to it.
        raise library_fails(error) from error
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling[NAME] = parameters["scale"]
            # Under autocast the two LoRA products are computed in the base's dtype.
            module.cast_input_dtype_enabled = False
            if kind == "dora":
                module.lora_magnitude_vector[NAME].get_weight_norm = _row_lengths
    for parameter in trained(model).values():
        parameter.data = parameter.data.float()


@dataclass(frozen=True)
class BaseLayers:
    """Parameters of a base's layers, as they are without an adapter."""

    parameters: dict[nn.Parameter, torch.Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> BaseLayers:
        """Note those of a model without an adapter; nothing is copied."""
        return cls({parameter: parameter.data for parameter in decoder_layers(model).parameters()})

    def restore(self, model: nn.Module) -> None:
        """Take the adapter out of the model."""
        for name, module in list(model.named_modules()):
            if isinstance(module, LoraLayer):
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, module.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config
        for parameter, data in self.parameters.items():
            parameter.data = data
        model.requires_grad_(False)


def _row_lengths(weight: torch.Tensor, lora_weight: torch.Tensor, scaling: float, **_: Any) -> torch.Tensor:
    """Return DoRA's weight norms in float32, as on MLX: PEFT rounds them to the base's dtype, changing every row."""
    return torch.linalg.norm(weight.float() + scaling * lora_weight.float(), dim=1)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by mlx-lm's names."""
    return {own_name(name): value for name, value in model.named_parameters() if value.requires_grad}


def own_name(name: str) -> str:
    """Return mlx-lm's name for a parameter of PEFT or of the model itself."""
    for ending, part in PARTS.items():
        if name.endswith(f".{ending}"):
            return f"{name.removesuffix(ending)}{part}"
    return name


def in_mlx_layout(name: str, value: torch.Tensor) -> torch.Tensor:
    """Convert an array of a parameter's shape to mlx-lm's layout, or back: A is [in, rank], B [rank, out]."""
    turned = value.ndim == 2 and name.rsplit(".", 1)[-1] in TRANSPOSED
    return value.T.contiguous() if turned else value


def start_adapter(model: nn.Module, config: TrainingConfig) -> dict[str, Any]:
    """Add a fresh adapter by the config; return its ``adapter_config.json``.

    Raises:
        UserError: the model lacks a target module, its layers are not found, or full fine-tuning of a base
            that does not allow it.
    """
    try:
        layers = decoder_layers(model)
    except ValueError as error:
        raise UserError(f"{error}; use another base, or --backend mlx") from error
    full = config.fine_tune_type == "full"
    if full:
        check_full(getattr(model, "is_quantized", False), model.dtype == torch.float16)
    keys = [] if full else matching_keys(layer_modules(model), config.lora_target_modules)
    adapter = describe(config, len(layers), keys)
    add_adapter(model, adapter)
    with torch.no_grad():
        for name, value in trained(model).items():
            if name.endswith(".lora_a"):
                drawn = initial_a(config.seed, name, value.T.shape, value.shape[1])
                value.copy_(in_mlx_layout(name, torch.from_numpy(drawn)))
            elif name.endswith(".lora_b"):
                value.zero_()
        if config.fine_tune_type == "dora":
            _set_magnitudes(model)
    return adapter


def _set_magnitudes(model: nn.Module) -> None:
    """Initialise DoRA magnitudes with the row norms of the base, in float32 whatever its dtype."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = dequantize_module_weight(module.get_base_layer()).float()
            module.lora_magnitude_vector[NAME].weight.copy_(torch.linalg.norm(weight, dim=1))


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Set the trainable parameters, by name, from mlx-lm's layout.

    Raises:
        ValueError: names or shapes differ from the model's.
    """
    parameters = trained(model)
    expected = {name: tuple(in_mlx_layout(name, value).shape) for name, value in parameters.items()}
    check_shapes({name: tuple(value.shape) for name, value in weights.items()}, expected)
    for name, value in parameters.items():
        # Not in place: the base's own values are used again where adapters are switched.
        value.data = in_mlx_layout(name, weights[name]).to(value.device, value.dtype, copy=True)
    # DoRA caches values derived from the old weights until the mode changes.
    model.train()


def stored_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters by name in mlx-lm's layout, on the host."""
    return {name: in_mlx_layout(name, value.detach()).cpu() for name, value in trained(model).items()}
