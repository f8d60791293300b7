"""What differs between machines, and nothing else: one Protocol, two implementations, the same numbers.

A backend knows models, adapters and batches; it knows nothing of runs, files of metrics or sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..config import TrainingConfig
from ..data.collate import Batch
from ..models.inspection import BaseFacts
from ..models.resolve import ResolvedModel
from .registry import choose, library_fails


@dataclass
class StepResult:
    """One optimizer step.

    Attributes:
        loss: weighted mean cross-entropy over the step's supervised tokens, what was minimised.
        plain_loss: the same without weights.
        grad_norm: global L2 norm of the gradient before clipping.
        tokens: supervised tokens of the step, over all processes.
        seen: tokens of the step's examples with their padding, over all processes.
    """

    loss: float
    plain_loss: float
    grad_norm: float
    tokens: int
    seen: int


class Backend(Protocol):
    """A base model in memory, with an adapter if one is attached or loaded."""

    # ``mlx`` or ``torch``.
    name: str
    tokenizer: Any
    # The inspection of the base: what ends an answer, the embedding's rows.
    base: BaseFacts
    # What the user should know about this machine or model, a sentence each.
    notes: list[str]
    # True if the base is computed with in float32 though it is stored in less, and the notes that say so, or why not.
    widened: bool
    precision: list[str]
    # This process among those that train one adapter together; the first leads: it alone reads and writes the run.
    rank: int
    ranks: int
    # The part of the model that ``attach_lora`` has made trainable, such as "12 of 48 layers, 7 modules".
    coverage: str

    def layer_modules(self) -> list[list[str]]:
        """Return for each layer the paths within it of the linear modules that can be adapted; before any is."""

    def attach_lora(self, config: TrainingConfig) -> int:
        """Add fresh LoRA layers and an optimizer; returns the number of trainable parameters."""

    def load_adapter(self, directory: Path) -> None:
        """Load a trained adapter in mlx-lm's format."""

    def train_step(self, micro_batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """One optimizer step on the mean over all supervised tokens of the micro-batches of all processes.

        A loss or gradient that is no number is returned, and changes nothing.
        """

    def summed(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""

    def from_leader(self, message: bytes) -> bytes:
        """The first process's message, on every process."""

    def share_state(self) -> None:
        """Give every process the first one's trained parameters and optimizer state."""

    def evaluate(self, batch: Batch) -> float:
        """Sum of the unweighted cross-entropy over a batch's supervised tokens."""

    def save_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write ``adapters.safetensors`` and ``adapter_config.json`` in mlx-lm's format."""

    def save_state(self, file: Path) -> None:
        """Write what is trained and the optimizer's state, so that training can go on bit for bit.

        Names and layout are MLX's on every backend: what one has begun, the other goes on with.
        """

    def load_state(self, file: Path) -> None:
        """Read what ``save_state`` wrote."""

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, temperature: float, seed: int) -> list[str]:
        """Answers to prompts of token ids; temperature 0 is greedy."""

    def peak_memory(self) -> int:
        """Most bytes in use since the model was loaded."""

    def machine_memory(self) -> int:
        """Bytes that this machine has for a model."""


def load_backend(model: ResolvedModel, asked: str = "auto", load_in_4bit: bool = False, wide: bool = False) -> Backend:
    """A backend with a model loaded.

    Args:
        asked: ``mlx``, ``torch``, or ``auto`` for the one that suits this machine; see ``choose``.
        load_in_4bit: quantize the base on the way, in the backend's own 4-bit format.
        wide: compute in float32 where the device is faster in it and it fits (MLX on a CPU).

    Raises:
        UserError: see ``choose``, and where the model does not load.
    """
    if choose(asked).name == "torch":
        try:
            from .torch.backend import TorchBackend
        except (ImportError, OSError) as error:
            raise library_fails(error) from error

        return TorchBackend(model, load_in_4bit)
    from .mlx.backend import MLXBackend

    return MLXBackend(model, load_in_4bit, wide)
