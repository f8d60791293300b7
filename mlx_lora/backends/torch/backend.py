"""Torch backend: transformers' models and PEFT's layers, with our training step."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from ...config import TrainingConfig
from ...data.collate import Batch
from ...errors import guarded
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
from .device import explained, find_device, peak_memory, usable_memory
from .distributed import all_reduce_sum, broadcast_bytes, join
from .generation import can_share, generated, shared_tokens
from .lora import add_adapter, layer_modules, load_weights, start_adapter, stored_weights, trained
from .loss import BatchArrays, find_path, in_base_dtype, log_probabilities, loss_sums
from .model_loading import load_model
from .train_step import TrainStep


class TorchBackend:
    """Base model of transformers in memory; see :class:`mlx_lora.backends.Backend`.

    Args:
        load_in_4bit: quantize the base to NF4 (bitsandbytes).

    Raises:
        UserError: transformers does not support the architecture, or the weights do not fit it.
    """

    name = "torch"
    widened: bool = False

    def __init__(self, model: ResolvedModel, load_in_4bit: bool = False) -> None:
        self._processes = join()
        self.rank, self.ranks = self._processes.rank, self._processes.size
        self.device = find_device()
        self.tokenizer: Any = open_tokenizer(model)
        self.base = self.tokenizer.base_facts
        self.model, self.notes = load_model(model, self.device, load_in_4bit)
        self.notes += self.base.notes
        # Only the requested sampling parameters apply, not the defaults in the model's generation_config.json.
        self.model.generation_config = GenerationConfig(eos_token_id=self.base.ends or None, pad_token_id=0)
        with guarded(f"{model.name}: transformers cannot run this model"):
            self.path = find_path(self.model)
        if self.path.note:
            self.notes.append(f"{model.name}: {self.path.note}")
        self.precision: list[str] = []
        # Unknown until prompts with a common prefix are answered.
        self._shares: bool | None = None
        self._step: TrainStep | None = None
        self.coverage = ""
        self._adapter: dict[str, Any] = {}

    def layer_modules(self) -> list[list[str]]:
        """Return the paths of the adaptable linear modules in each layer."""
        return layer_modules(self.model)

    def attach_lora(self, config: TrainingConfig) -> int:
        """Add fresh LoRA layers and an optimizer; return the number of trainable parameters."""
        layers = self.layer_modules()
        self._adapter = start_adapter(self.model, config)
        self.coverage = coverage(layers, self._adapter)
        if config.init_adapter:
            directory = published(Path(config.init_adapter))
            with beginning_from(directory):
                check_can_begin_from(read_description(directory), self._adapter)
                self._load(directory)
        self._step = TrainStep(self.model, self.path, config, self._processes)
        return sum(value.numel() for value in trained(self.model).values())

    def _load(self, directory: Path) -> None:
        check_safetensors(directory / ADAPTER_FILE)
        load_weights(self.model, load_file(directory / ADAPTER_FILE))

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
        return self._step

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the all-reduce sums of values over all processes."""
        return all_reduce_sum(values, self._processes)

    def broadcast(self, message: bytes) -> bytes:
        """Broadcast the message of rank 0."""
        return broadcast_bytes(message, self._processes)

    def broadcast_state(self) -> None:
        """Broadcast the trained parameters and optimizer state of rank 0."""
        self._training.share()

    def save_state(self, file: Path) -> None:
        """Write the trained parameters and optimizer state."""
        save_arrays(file, self._training.state())

    def load_state(self, file: Path) -> None:
        """Read the trained parameters and optimizer state."""
        with going_on_from(file):
            self._training.set_state(load_file(file))

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

    def save_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write the adapter in mlx-lm's format."""
        write_description(directory, base, self._adapter)
        temporary = directory / f".{ADAPTER_FILE}.tmp.safetensors"
        with writing(directory / ADAPTER_FILE):
            os.close(create_file(temporary, directory / ADAPTER_FILE))
        save_arrays(temporary, stored_weights(self.model))
        replace_file(temporary, directory / ADAPTER_FILE)

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

    def peak_memory(self) -> int:
        """Return the peak memory in bytes since the model was loaded."""
        return peak_memory(self.device)

    def machine_memory(self) -> int:
        """Return the memory in bytes that this machine has for a model."""
        return usable_memory(self.device)


def save_arrays(file: Path, arrays: dict[str, torch.Tensor]) -> None:
    """Write safetensors.

    Raises:
        UserError: the disk is full, or the write fails.
    """
    with writing(file):
        try:
            save_file(arrays, file, metadata={"format": "mlx"})
        except SafetensorError as error:
            file.unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, "the file came out incomplete") from error
