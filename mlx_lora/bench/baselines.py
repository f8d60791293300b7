"""Baselines: the trainer that each backend is measured against, and the packages that a comparison needs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from ..errors import UserError


@dataclass(frozen=True)
class Rival:
    """Baseline: another trainer on the same backend.

    Attributes:
        name: name in tables and pictures.
        worker: module that runs either side in a separate process.
        versions: distributions whose versions belong to a result, by display name.
        modules: modules that must be importable.
        needs: error sentence if one is not.
    """

    name: str
    worker: str
    versions: dict[str, str] = field(hash=False)
    modules: tuple[str, ...]
    needs: str

    def check(self) -> None:
        """Raise UserError with ``needs`` if a module is missing."""
        if any(importlib.util.find_spec(module) is None for module in self.modules):
            raise UserError(self.needs)


RIVALS = {
    "mlx": Rival(
        name="mlx_lm.lora",
        worker="mlx_lora.bench.mlx_worker",
        versions={"mlx": "mlx", "mlx_lm": "mlx-lm"},
        modules=("mlx", "mlx_lm"),
        needs="bench: MLX is not installed, which is measured against mlx_lm.lora; use --backend torch",
    ),
    "torch": Rival(
        name="TRL's SFTTrainer",
        worker="mlx_lora.bench.torch_worker",
        versions={name: name for name in ("torch", "transformers", "peft", "trl", "accelerate", "datasets")},
        modules=("torch", "transformers", "peft", "accelerate", "trl", "datasets"),
        needs="bench: TRL, which the torch backend is measured against, is not installed; "
        "pip install 'mlx-lora[bench]'",
    ),
}
