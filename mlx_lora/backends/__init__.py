"""Backend-specific code: model loading, LoRA layers, the training step; one Protocol for MLX and torch, same numbers.

A backend handles models, adapters and batches; it knows nothing of runs, metrics files or sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..config import TrainingConfig
from ..data.collate import Batch
from ..data.parts import PassCost
from ..models.inspection import BaseFacts
from ..models.resolve import ResolvedModel
from .answering import AnswerBatch, TokenScore
from .registry import choose, library_fails


@dataclass
class StepResult:
    """Result of one optimizer step.

    Attributes:
        loss: weighted mean cross-entropy over the step's supervised tokens, the quantity minimised.
        plain_loss: the same without weights.
        grad_norm: global L2 norm of the gradient before clipping.
        tokens: supervised tokens of the step, over all processes.
        padded_tokens: padded tokens of the step's examples, over all processes.
    """

    loss: float
    plain_loss: float
    grad_norm: float
    tokens: int
    padded_tokens: int


class Backend(Protocol):
    """Base model in memory, with an adapter if one is attached or loaded."""

    # ``mlx`` or ``torch``.
    name: str
    tokenizer: Any
    # Inspection of the base: end-of-turn tokens, rows of the embedding.
    base: BaseFacts
    # Notes for the user about this machine or model, one sentence each.
    notes: list[str]
    # True if the base is computed in float32 though stored in a narrower type; notes that say so, or why not.
    widened: bool
    precision: list[str]
    # Rank and world size of the distributed run; rank 0 alone reads and writes the run directory.
    rank: int
    ranks: int
    # Part of the model that ``attach_lora`` made trainable, such as "12 of 48 layers, 7 modules".
    coverage: str
    # Overhead of a pass through the model on this device; steps are divided by it.
    pass_cost: PassCost

    def layer_modules(self) -> list[list[str]]:
        """Return the paths of the adaptable linear modules in each layer; call before an adapter is attached."""

    def attach_lora(self, config: TrainingConfig) -> int:
        """Add fresh LoRA layers and an optimizer; return the number of trainable parameters."""

    def load_adapter(self, directory: Path) -> None:
        """Load a trained adapter in mlx-lm's format."""

    def switch_adapter(self, directory: Path | None) -> None:
        """Replace the adapter that this method loaded last by another one, or by none, without loading the base again.

        Answers are those of the base with that adapter alone. After an error, none is loaded for sure: switch again.
        """

    def train_step(self, micro_batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """Run one optimizer step on the mean over all supervised tokens of the micro-batches of all processes.

        A non-finite loss or gradient is returned, and changes no parameter.
        """

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the all-reduce sums of values over all processes."""

    def broadcast(self, message: bytes) -> bytes:
        """Broadcast the message of rank 0; return it on every process."""

    def broadcast_state(self) -> None:
        """Broadcast the trained parameters and optimizer state of rank 0."""

    def evaluate(self, batch: Batch) -> float:
        """Return the summed unweighted cross-entropy over a batch's supervised tokens."""

    def log_probabilities(self, batch: Batch) -> tuple[list[float], list[bool]]:
        """Return the log-probability of each supervised token of a batch, and True where it is the top-1 token."""

    def describe_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write ``adapter_config.json`` of the adapter in training."""

    def save_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write ``adapters.safetensors`` and ``adapter_config.json`` in mlx-lm's format."""

    def save_state(self, file: Path) -> None:
        """Write the trained parameters and optimizer state, so that training resumes bit for bit.

        Names and layout are MLX's on every backend: a run started on one resumes on the other.
        """

    def load_state(self, file: Path) -> None:
        """Read the trained parameters and optimizer state that ``save_state`` wrote."""

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return the answers to prompts of token ids; temperature 0 is greedy."""

    def open_batch(self) -> AnswerBatch:
        """Return an empty batch of answers that grow together, with the adapter that is loaded."""

    def score_tokens(self, tokens: Sequence[int], top: int) -> list[TokenScore]:
        """Return the score of each token of a text but the first, with the ``top`` most likely ones."""

    def peak_memory(self) -> int:
        """Return the peak memory in bytes since the model was loaded."""

    def machine_memory(self) -> int:
        """Return the memory in bytes that this machine has for a model."""


def load_backend(
    model: ResolvedModel, requested: str = "auto", load_in_4bit: bool = False, wide: bool = False
) -> Backend:
    """Load a model on a backend and return the backend.

    Args:
        requested: ``mlx``, ``torch``, or ``auto`` for the one that suits this machine; see ``choose``.
        load_in_4bit: quantize the base while loading, in the backend's own 4-bit format.
        wide: compute in float32 where that is faster on the device and fits its memory (MLX on a CPU).

    Raises:
        UserError: see ``choose``; also if the model does not load.
    """
    if choose(requested).name == "torch":
        try:
            from .torch.backend import TorchBackend
        except (ImportError, OSError) as error:
            raise library_fails(error) from error

        return TorchBackend(model, load_in_4bit)
    from .mlx.backend import MLXBackend

    return MLXBackend(model, load_in_4bit, wide)
