"""Model loading through transformers: plain weights, MLX's quantized ones, or quantized here to four bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import is_flash_attn_2_available

from ...errors import UserError, first_line, guarded
from ...models.resolve import ResolvedModel

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SAFELY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_model(model: ResolvedModel, device: torch.device, load_in_4bit: bool) -> tuple[Any, list[str]]:
    """Return (the model on the device, frozen; notes for the user, one sentence each).

    Raises:
        UserError: transformers does not support the architecture, or the weights do not fit it.
    """
    notes: list[str] = []
    with guarded(f"{model.name}: transformers cannot load this model"), _missing_library(model.name):
        config = AutoConfig.from_pretrained(model.path, **SAFELY)
        _drop_nothing(config)
        if getattr(config, "quantization", None):
            loaded = _dequantized(model.path, config, device)
            notes.append(
                f"{model.name}: MLX's quantized weights are held as {str(loaded.dtype)[6:]} here; for less memory use "
                "the model that was quantized, with load_in_4bit"
            )
        else:
            loaded = _loaded(model.path, config, device, load_in_4bit)
    attend_fast(loaded, device)
    return loaded.requires_grad_(False).eval(), notes


@contextmanager
def _missing_library(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{name}: a library that this model needs is missing ({first_line(error, 2)}); "
            "pip install 'mlx-lora[torch]'"
        ) from error


def attend_fast(model: Any, device: torch.device) -> None:
    """Enable FlashAttention if it is installed and the model supports it."""
    if device.type == "cuda" and model.dtype != torch.float32 and is_flash_attn_2_available():
        # Architectures without support raise.
        with suppress(ValueError, ImportError):
            model.set_attn_implementation("flash_attention_2")


def _drop_nothing(config: Any) -> None:
    """Disable the dropout of the base, as in mlx-lm, whatever the architecture calls it."""
    for part in (config, config.get_text_config()):
        for name, value in part.to_dict().items():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)


def _loaded(path: Path, config: Any, device: torch.device, load_in_4bit: bool) -> Any:
    options: dict[str, Any] = {}
    if load_in_4bit:
        # NF4 with its scales quantized too, as in QLoRA (Dettmers et al. 2023).
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )
    model, found = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=_stored_dtype(path),
        device_map={"": device},
        use_safetensors=True,
        output_loading_info=True,
        **SAFELY,
        **options,
    )
    for module in model.modules():
        # On some CPUs bitsandbytes would repack a weight at its first use, for a product without a gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # Transformers would continue with random values there.
    if missing := found["missing_keys"]:
        raise ValueError(f"{len(missing)} of its weights are missing: {min(missing)}")
    return model


def _stored_dtype(path: Path) -> torch.dtype | str:
    """Return the dtype of the stored weights, as MLX uses it: a config may name another."""
    with safe_open(str(min(path.glob("model*.safetensors"))), framework="pt") as tensors:
        found = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118  no mapping
    return DTYPES[found.pop()] if len(found) == 1 and found <= set(DTYPES) else "auto"


def _dequantized(path: Path, config: Any, device: torch.device) -> Any:
    """Load a model from a directory that mlx-lm quantized, with exactly the values that MLX computes with."""
    weights = dict(_dequantized_arrays(path, config.quantization))
    del config.quantization
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=next(iter(weights.values())).dtype)
    missing, unknown = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if name != "lm_head.weight" or not config.tie_word_embeddings]
    if missing or unknown:
        raise ValueError(f"{(missing + unknown)[0]} is missing or unknown")
    # Transformers' own flag: its full-precision layers would not fit the stored base.
    model.is_quantized = True
    return model


def _dequantized_arrays(path: Path, quantization: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    # MLX itself dequantizes, since it alone supports all of its formats; the rest of this module works without it.
    import mlx.core as mx
    import numpy as np

    for file in sorted(path.glob("model*.safetensors")):
        arrays: dict[str, Any] = mx.load(str(file))  # type: ignore[assignment]
        for name, value in arrays.items():
            module, _, part = name.rpartition(".")
            if part in ("scales", "biases") and f"{module}.scales" in arrays:
                continue
            if f"{module}.scales" in arrays and part == "weight":
                own = quantization.get(module)
                how = {key: quantization[key] for key in ("group_size", "bits", "mode") if key in quantization}
                how |= own if isinstance(own, dict) else {}
                value = mx.dequantize(value, arrays[f"{module}.scales"], arrays.get(f"{module}.biases"), **how)
            bits = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
            tensor = torch.from_numpy(np.array(bits))
            yield name, tensor.view(torch.bfloat16) if value.dtype == mx.bfloat16 else tensor
