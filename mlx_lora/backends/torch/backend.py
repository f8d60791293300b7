"""Torch backend: transformers' models and PEFT's layers, with our training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from ...config import TrainingConfig
from ...data.collate import Batch
from ...errors import guarded
from ...models.resolve import ResolvedModel
from ..answering import TokenScore
from ..base import BaseBackend
from . import distributed, lora
from .answer_batch import TorchAnswerBatch, score_tokens
from .device import explained, find_device, pass_cost, peak_memory, usable_memory
from .generation import can_share, generated, shared_tokens
from .loss import BatchArrays, find_path, in_base_dtype, log_probabilities, loss_sums
from .model_loading import load_model
from .train_step import TrainStep


class TorchBackend(BaseBackend):
    """Base model of transformers in memory; see :class:`mlx_lora.backends.Backend`.

    Args:
        load_in_4bit: quantize the base to NF4 (bitsandbytes).

    Raises:
        UserError: transformers does not support the architecture, or the weights do not fit it.
    """

    name = "torch"
    lora, distributed, explained = lora, distributed, staticmethod(explained)
    incomplete = (SafetensorError,)

    def __init__(self, model: ResolvedModel, load_in_4bit: bool = False) -> None:
        processes = distributed.join()
        self.device = find_device()
        super().__init__(model, processes, processes.rank, processes.size)
        self.model, notes = load_model(model, self.device, load_in_4bit)
        self.notes = [*notes, *self.base.notes]
        # Only the requested sampling parameters apply, not the defaults in the model's generation_config.json.
        self.model.generation_config = GenerationConfig(eos_token_id=self.base.ends or None, pad_token_id=0)
        with guarded(f"{model.name}: transformers cannot run this model"):
            self.path = find_path(self.model)
        self.pass_cost = pass_cost(self.model, self.device)
        if self.path.note:
            self.notes.append(f"{model.name}: {self.path.note}")
        # Unknown until prompts with a common prefix are answered.
        self._shares: bool | None = None

    def read_arrays(self, file: Path) -> dict[str, torch.Tensor]:
        """Read safetensors."""
        return load_file(file)

    def write_arrays(self, file: Path, arrays: dict[str, torch.Tensor]) -> None:
        """Write safetensors."""
        save_file(arrays, file, metadata={"format": "mlx"})

    def attach_lora(self, config: TrainingConfig) -> int:
        """Add fresh LoRA layers and an optimizer; return the number of trainable parameters."""
        self._start_adapter(config)
        self._step = TrainStep(self.model, self.path, config, self.group)
        return sum(value.numel() for value in lora.trained(self.model).values())

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        """Return the summed unweighted cross-entropy over a batch's supervised tokens."""
        self.model.eval()
        with explained():
            return float(loss_sums(self.model, self.path, BatchArrays.of(batch, self.device))[1])

    @torch.no_grad()
    def log_probabilities(self, batch: Batch) -> tuple[list[float], list[bool]]:
        """Return the log-probability of each supervised token, and True where it is the top-1 token."""
        self.model.eval()
        with explained():
            logprobs, top = log_probabilities(self.model, self.path, BatchArrays.of(batch, self.device))
        return logprobs[: batch.tokens].tolist(), top[: batch.tokens].tolist()

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], max_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return the answers to prompts of token ids."""
        self.model.eval()
        torch.manual_seed(seed)
        # No top-k and top-p, which transformers would add.
        drawn = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        with in_base_dtype(self.model), explained():
            prefix = shared_tokens(prompts)
            if prefix and self._shares is None:
                self._shares = can_share(self.model)
            prefix = prefix if self._shares else 0
            found, length = generated(
                self.model, prompts, prefix, max_new_tokens=max_tokens, do_sample=temperature > 0, **drawn
            )
        return [self._text(row) for row in found[:, length:].tolist()]

    def _text(self, tokens: list[int]) -> str:
        end = next((i for i, token in enumerate(tokens) if token in self.base.ends), len(tokens))
        return self.tokenizer.decode(tokens[:end])

    def open_batch(self) -> TorchAnswerBatch:
        """Return an empty batch of answers that grow together."""
        self.model.eval()
        return TorchAnswerBatch(self.model, self.base.ends)

    def score_tokens(self, tokens: Sequence[int], top: int) -> list[TokenScore]:
        """Return the score of each token of a text but the first."""
        self.model.eval()
        return score_tokens(self.model, tokens, top)

    def peak_memory(self) -> int:
        """Return the peak memory in bytes since the model was loaded."""
        return peak_memory(self.device)

    def machine_memory(self) -> int:
        """Return the memory in bytes that this machine has for a model."""
        return usable_memory(self.device)
