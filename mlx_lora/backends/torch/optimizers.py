"""Optimizers on torch by their config names; their state is saved in MLX's format, which both backends read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...config import TrainingConfig
from ...errors import UserError
from .lora import TRANSPOSED, in_mlx_layout

ROW, COLUMN = "exp_avg_sq_row", "exp_avg_sq_col"
# Block size of bitsandbytes' 8-bit state: values that share one scale.
BLOCK = 256


def make_optimizer(config: TrainingConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a config with its state allocated; its learning rate is set at each step.

    Raises:
        UserError: adamw8bit without bitsandbytes.
    """
    optimizer = _named(config, parameters)
    # A zero update at learning rate 0: each library allocates its state at its first update.
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    set_steps(optimizer, 0)
    return optimizer


def _named(config: TrainingConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    decay = config.weight_decay
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=0.0, weight_decay=decay, relative_step=False, scale_parameter=False)
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise UserError(
                "optimizer: adamw8bit needs bitsandbytes; pip install 'mlx-lora[torch]', or use adamw"
            ) from error
        return AdamW8bit(parameters, lr=0.0, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=decay)


def set_steps(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Set the step count of the optimizer."""
    for state in optimizer.state.values():
        state["step"] = torch.full_like(state["step"], steps) if torch.is_tensor(state["step"]) else steps


def steps_of(optimizer: torch.optim.Optimizer) -> int:
    """Return the step count of the optimizer."""
    return int(next(iter(optimizer.state.values()))["step"])


def state_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return the optimizer state by MLX's names and in its layout, float32 on the host.

    Args:
        parameters: the trained parameters, by mlx-lm's names.
    """
    counted = {"step": torch.tensor(steps_of(optimizer), dtype=torch.uint64), "learning_rate": torch.tensor(0.0)}
    arrays = {
        part: in_mlx_layout(name, _read(state, key)).float().cpu()
        for name, part, state, key in _remembered(optimizer, parameters)
    }
    return {**counted, **arrays}


def eight_bit_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return the raw 8-bit optimizer state: quantizing ``state_of`` again would not reproduce it exactly."""
    arrays: dict[str, torch.Tensor] = {}
    for _, part, state, key in _remembered(optimizer, parameters):
        if state[key].dtype == torch.uint8:
            arrays |= {f"{part}.codes": state[key].cpu(), f"{part}.scales": state[f"absmax{key[-1]}"].cpu()}
    return arrays


def set_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    arrays: Mapping[str, torch.Tensor],
    eight_bit: Mapping[str, torch.Tensor],
) -> None:
    """Restore the state from ``state_of`` and ``eight_bit_of``; a state from MLX has no 8-bit part."""
    for name, part, state, key in _remembered(optimizer, parameters):
        if state[key].dtype == torch.uint8 and f"{part}.codes" in eight_bit:
            state[key].copy_(eight_bit[f"{part}.codes"])
            state[f"absmax{key[-1]}"].copy_(eight_bit[f"{part}.scales"])
        else:
            _write(state, key, in_mlx_layout(name, arrays[part]))
    set_steps(optimizer, int(arrays["step"]))


def _remembered(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield (parameter, MLX's name of a state array, the state that holds it, its key there)."""
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        turned = name.rsplit(".", 1)[-1] in TRANSPOSED
        if "state1" in state:
            keys = {"state1": "m", "state2": "v"}
        elif "exp_avg" in state:
            keys = {"exp_avg": "m", "exp_avg_sq": "v"}
        elif ROW in state:
            # The rows of a transposed matrix are the columns of MLX's.
            keys = {ROW: COLUMN, COLUMN: ROW} if turned else {ROW: ROW, COLUMN: COLUMN}
        else:
            keys = {"exp_avg_sq": "exp_avg_sq"}
        for key, part in keys.items():
            yield name, f"{name}.{part}", state, key


def _read(state: dict[str, Any], key: str) -> torch.Tensor:
    value = state[key]
    if value.dtype != torch.uint8:
        return value
    from bitsandbytes.functional import dequantize_blockwise

    number = key[-1]
    return dequantize_blockwise(value, absmax=state[f"absmax{number}"], code=state[f"qmap{number}"], blocksize=BLOCK)


def _write(state: dict[str, Any], key: str, value: torch.Tensor) -> None:
    if state[key].dtype != torch.uint8:
        state[key].copy_(value)
        return
    from bitsandbytes.functional import quantize_blockwise

    number = key[-1]
    moved = value.to(state[key].device).contiguous()
    quantized, scales = quantize_blockwise(moved, code=state[f"qmap{number}"], blocksize=BLOCK)
    state[key].copy_(quantized)
    state[f"absmax{number}"].copy_(scales.absmax)
