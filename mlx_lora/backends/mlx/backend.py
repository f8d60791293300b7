"""MLX backend: mlx-lm's models, LoRA layers and generation, with our training step."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model, quantize_model

from ...config import TrainingConfig
from ...data.collate import Batch
from ...errors import UserError, guarded
from ...files import create_file, replace_file, writing
from ...models.resolve import ResolvedModel, check_safetensors
from ...models.tokenizer import open_tokenizer
from .. import StepResult
from ..adapter_format import (
    ADAPTER_FILE,
    check_can_begin_from,
    coverage,
    published,
    read_description,
    write_description,
)
from ..errors import beginning_from, fitting_its_base, going_on_from
from . import SLOW_BLAS
from .distributed import all_reduce_sum, broadcast_bytes
from .generation import Generation
from .gradient_checkpointing import checkpoint_layers
from .lora import add_adapter, layer_modules, load_weights, start_adapter
from .loss import BatchArrays, check_windows, find_path, log_probabilities, loss_sums
from .memory import explained, set_limits, usable_memory
from .precision import widen
from .train_step import TrainStep

# mlx-lm's own default.
GROUP_SIZE = 64


class MLXBackend:
    """Base model of mlx-lm in memory; see :class:`mlx_lora.backends.Backend`.

    Args:
        load_in_4bit: quantize the base to four bits, in groups of 64 (MLX's affine format).
        wide: compute in float32 where the stored type has no BLAS; see ``widen``.

    Raises:
        UserError: mlx-lm does not support the architecture, or the weights do not fit it.
    """

    name = "mlx"

    def __init__(self, model: ResolvedModel, load_in_4bit: bool = False, wide: bool = False) -> None:
        set_limits()
        self.tokenizer: Any = open_tokenizer(model)
        self.base = self.tokenizer.base_facts
        with guarded(f"{model.name}: mlx-lm cannot load this model"):
            self.model, self.model_config = load_model(model.path, model_config=model.config_overrides)
            if load_in_4bit and "quantization" not in self.model_config:
                self.model, self.model_config = quantize_model(self.model, self.model_config, GROUP_SIZE, 4)
            self.model.freeze()
            self.widened, self.precision = widen(self.model, model.name) if wide else (False, [])
            self.path = find_path(self.model)
        # Length up to which the shared prefix agrees with the windows of the caches.
        self._checked_length = 0
        self.notes = [*([] if SLOW_BLAS is None else [SLOW_BLAS]), *self.precision, *self.base.notes]
        self._name = model.name
        self._group = mx.distributed.init()
        self.rank, self.ranks = self._group.rank(), self._group.size()
        self._step: TrainStep | None = None
        self.coverage = ""
        self._generation = Generation(self.model, self.path.vocabulary)
        self._adapter: dict[str, Any] = {}

    def layer_modules(self) -> list[list[str]]:
        """Return the paths of the adaptable linear modules in each layer."""
        return layer_modules(self.model)

    def attach_lora(self, config: TrainingConfig) -> int:
        """Add fresh LoRA layers and an optimizer; return the number of trainable parameters."""
        self.path = check_windows(self.model, self.path, config.max_seq_length)
        if self.path.note:
            self.notes.append(f"{self._name}: {self.path.note}")
        layers = self.layer_modules()
        self._adapter = start_adapter(self.model, config)
        self.coverage = coverage(layers, self._adapter)
        if config.init_adapter:
            directory = published(Path(config.init_adapter))
            with beginning_from(directory):
                check_can_begin_from(read_description(directory), self._adapter)
                self._load(directory)
        if config.grad_checkpoint:
            checkpoint_layers(self.model)
        if config.optimizer == "adamw8bit":
            self.notes.append("optimizer: MLX has no adamw8bit; adamw is used, whose state takes four times the memory")
        self._step = TrainStep(self.model, self.path, config, self._group)
        self._generation.forget()
        return sum(value.size for _, value in tree_flatten(self.model.trainable_parameters()))

    def _load(self, directory: Path) -> None:
        check_safetensors(directory / ADAPTER_FILE)
        load_weights(self.model, mx.load(str(directory / ADAPTER_FILE)))
        self._generation.forget()

    def load_adapter(self, directory: Path) -> None:
        """Load a trained adapter in mlx-lm's format."""
        with fitting_its_base(directory):
            add_adapter(self.model, read_description(directory))
            self._load(directory)
        self.model.eval()

    def train_step(self, micro_batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """Run one optimizer step over the micro-batches."""
        with explained():
            return self._training(micro_batches, step, learning_rate)

    @property
    def _training(self) -> TrainStep:
        if self._step is None:
            raise RuntimeError("attach_lora must be called before training")
        self._generation.forget()
        return self._step

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the all-reduce sums of values over all processes."""
        return all_reduce_sum(values, self._group)

    def broadcast(self, message: bytes) -> bytes:
        """Broadcast the message of rank 0."""
        return broadcast_bytes(message, self._group)

    def broadcast_state(self) -> None:
        """Broadcast the trained parameters and optimizer state of rank 0."""
        self._training.share()

    def save_state(self, file: Path) -> None:
        """Write the trained parameters and optimizer state."""
        save_arrays(file, self._training.state())

    def load_state(self, file: Path) -> None:
        """Read the trained parameters and optimizer state."""
        with going_on_from(file):
            self._training.set_state(mx.load(str(file)))  # type: ignore[arg-type]

    def evaluate(self, batch: Batch) -> float:
        """Return the summed unweighted cross-entropy over a batch's supervised tokens."""
        self.model.eval()
        return float(loss_sums(self.model, self.path, BatchArrays.of(batch))[1])

    def log_probabilities(self, batch: Batch) -> tuple[list[float], list[bool]]:
        """Return the log-probability of each supervised token, and True where it is the top-1 token."""
        self.model.eval()
        length = len(batch.prefix) + batch.ids.shape[1]
        if length > self._checked_length:
            self.path, self._checked_length = check_windows(self.model, self.path, length), length
        logprobs, top = log_probabilities(self.model, self.path, BatchArrays.of(batch))
        return logprobs[: batch.tokens].tolist(), top[: batch.tokens].tolist()

    def save_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write the adapter in mlx-lm's format."""
        weights = dict(tree_flatten(self.model.trainable_parameters()))
        write_description(directory, base, self._adapter)
        temporary = directory / f".{ADAPTER_FILE}.tmp.safetensors"
        with writing(directory / ADAPTER_FILE):
            os.close(create_file(temporary, directory / ADAPTER_FILE))
        save_arrays(temporary, weights)
        replace_file(temporary, directory / ADAPTER_FILE)

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return the answers to prompts of token ids."""
        self.model.eval()
        # Only mlx-lm's tokenizer wrapper supports several EOS tokens.
        tokenizer = TokenizerWrapper(self.tokenizer)
        tokenizer.eos_token_ids = self.base.ends
        return self._generation.answer(tokenizer, prompts, max_tokens, temperature, seed)

    def peak_memory(self) -> int:
        """Return the peak memory in bytes since the model was loaded."""
        return mx.get_peak_memory()

    def machine_memory(self) -> int:
        """Return the memory in bytes that this machine has for a model."""
        return usable_memory()


def save_arrays(file: Path, arrays: dict[str, mx.array]) -> None:
    """Write safetensors and read their header back: MLX does not say when the disk was full.

    Raises:
        UserError: the disk is full, or the write fails.
    """
    with writing(file):
        try:
            mx.save_safetensors(str(file), arrays, metadata={"format": "mlx"})
            check_safetensors(file)
        except (RuntimeError, UserError) as error:
            file.unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, "the file came out incomplete") from error
