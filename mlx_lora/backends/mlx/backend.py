"""MLX backend: mlx-lm's models, LoRA layers and generation, with our training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model, quantize_model

from ...config import TrainingConfig
from ...data.collate import Batch
from ...errors import UserError, guarded
from ...models.resolve import ResolvedModel, check_safetensors
from ..answering import TokenScore
from ..base import BaseBackend
from . import SLOW_BLAS, distributed, lora
from .answer_batch import MLXAnswerBatch, score_tokens
from .generation import Generation
from .gradient_checkpointing import checkpoint_layers
from .loss import BatchArrays, check_windows, find_path, log_probabilities, loss_sums
from .memory import explained, set_limits, usable_memory
from .precision import widen
from .train_step import TrainStep

# mlx-lm's own default.
GROUP_SIZE = 64


class MLXBackend(BaseBackend):
    """Base model of mlx-lm in memory; see :class:`mlx_lora.backends.Backend`.

    Args:
        load_in_4bit: quantize the base to four bits, in groups of 64 (MLX's affine format).
        wide: compute in float32 where the stored type has no BLAS; see ``widen``.

    Raises:
        UserError: mlx-lm does not support the architecture, or the weights do not fit it.
    """

    name = "mlx"
    lora, distributed, explained = lora, distributed, staticmethod(explained)
    incomplete = (RuntimeError, UserError)

    def __init__(self, model: ResolvedModel, load_in_4bit: bool = False, wide: bool = False) -> None:
        set_limits()
        group = mx.distributed.init()
        super().__init__(model, group, group.rank(), group.size())
        with guarded(f"{model.name}: mlx-lm cannot load this model"):
            self.model, self.model_config = load_model(model.path, model_config=model.config_overrides)
            if load_in_4bit and "quantization" not in self.model_config:
                self.model, self.model_config = quantize_model(self.model, self.model_config, GROUP_SIZE, 4)
            self.model.freeze()
            if wide:
                self.widened, self.precision = widen(self.model, model.name)
            self.path = find_path(self.model)
        # Length up to which the shared prefix agrees with the windows of the caches.
        self._checked_length = 0
        self.notes = [*([] if SLOW_BLAS is None else [SLOW_BLAS]), *self.precision, *self.base.notes]
        self._name = model.name
        self._generation = Generation(self.model, self.path.vocabulary)

    def read_arrays(self, file: Path) -> dict[str, mx.array]:
        """Read safetensors."""
        return mx.load(str(file))  # type: ignore[return-value]

    def write_arrays(self, file: Path, arrays: dict[str, mx.array]) -> None:
        """Write safetensors and read their header back: MLX does not say when the disk was full."""
        mx.save_safetensors(str(file), arrays, metadata={"format": "mlx"})
        check_safetensors(file)

    def weights_change(self) -> None:
        """Drop the caches of the common prefix."""
        self._generation.forget()

    def attach_lora(self, config: TrainingConfig) -> int:
        """Add fresh LoRA layers and an optimizer; return the number of trainable parameters."""
        self.path = check_windows(self.model, self.path, config.max_seq_length)
        if self.path.note:
            self.notes.append(f"{self._name}: {self.path.note}")
        self._start_adapter(config)
        if config.grad_checkpoint:
            checkpoint_layers(self.model)
        if config.optimizer == "adamw8bit":
            self.notes.append("optimizer: MLX has no adamw8bit; adamw is used, whose state takes four times the memory")
        self._step = TrainStep(self.model, self.path, config, self.group)
        self.weights_change()
        return sum(value.size for _, value in tree_flatten(self.model.trainable_parameters()))

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

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return the answers to prompts of token ids."""
        self.model.eval()
        # Only mlx-lm's tokenizer wrapper supports several EOS tokens.
        tokenizer = TokenizerWrapper(self.tokenizer)
        tokenizer.eos_token_ids = self.base.ends
        return self._generation.answer(tokenizer, prompts, max_tokens, temperature, seed)

    def open_batch(self) -> MLXAnswerBatch:
        """Return an empty batch of answers that grow together."""
        self.model.eval()
        return MLXAnswerBatch(self._generation, self.base.ends)

    def score_tokens(self, tokens: Sequence[int], top: int) -> list[TokenScore]:
        """Return the score of each token of a text but the first."""
        self.model.eval()
        return score_tokens(self.model, tokens, top)

    def peak_memory(self) -> int:
        """Return the peak memory in bytes since the model was loaded."""
        return mx.get_peak_memory()

    def machine_memory(self) -> int:
        """Return the memory in bytes that this machine has for a model."""
        return usable_memory()
