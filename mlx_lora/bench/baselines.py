"""Whom each backend is measured against, and what a comparison with them needs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from ..errors import UserError


@dataclass(frozen=True)
class Rival:
    """Another trainer on the same backend.

    Attributes:
        name: how tables and pictures call it.
        worker: the module that runs either side in a process of its own.
        versions: the distributions whose versions belong to a result, by the names they are shown under.
        modules: what must be importable.
        needs: the sentence if something is not.
    """

    name: str
    worker: str
    versions: dict[str, str] = field(hash=False)
    modules: tuple[str, ...]
    needs: str

    def check(self) -> None:
        """Raises UserError with ``needs`` if a module is missing."""
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
