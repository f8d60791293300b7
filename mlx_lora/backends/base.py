"""Base class of both backends: adapter files, checkpoints and distributed sums; a subclass computes."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import TrainingConfig
from ..data.collate import Batch
from ..data.parts import SMALL
from ..files import create_file, replace_file, writing
from ..models.resolve import ResolvedModel, check_safetensors
from ..models.tokenizer import open_tokenizer
from . import StepResult
from .adapter_format import ADAPTER_FILE, check_can_begin_from, coverage, published, read_description, write_description
from .errors import beginning_from, fitting_its_base, going_on_from


class BaseBackend(ABC):
    """Base model in memory; see :class:`mlx_lora.backends.Backend`.

    Attributes:
        lora: the backend's own module ``lora``: layers and weights, by mlx-lm's names.
        distributed: the backend's own module ``distributed``.
        explained: context manager that turns a device's errors into UserError.
        model: the backend's own model.
        incomplete: errors of ``write_arrays`` where the disk is full.
        group: this process and the others, as the functions of ``distributed`` take it.
    """

    lora: Any
    distributed: Any
    explained: Any
    model: Any
    incomplete: tuple[type[Exception], ...]

    def __init__(self, model: ResolvedModel, group: Any, rank: int, ranks: int) -> None:
        self.tokenizer: Any = open_tokenizer(model)
        self.base = self.tokenizer.base_facts
        self.group, self.rank, self.ranks = group, rank, ranks
        self.notes: list[str] = []
        self.widened, self.precision = False, list[str]()
        self.coverage = ""
        self.pass_cost = SMALL
        self._adapter: dict[str, Any] = {}
        # Noted before the first adapter, if adapters are switched.
        self._base_layers: Any = None
        self._step: Any = None

    @abstractmethod
    def read_arrays(self, file: Path) -> dict[str, Any]:
        """Read safetensors."""

    @abstractmethod
    def write_arrays(self, file: Path, arrays: dict[str, Any]) -> None:
        """Write safetensors."""

    def weights_change(self) -> None:  # noqa: B027 not every backend keeps any
        """Drop what was computed with the present weights."""

    def layer_modules(self) -> list[list[str]]:
        """Return the paths of the adaptable linear modules in each layer."""
        return self.lora.layer_modules(self.model)

    def _start_adapter(self, config: TrainingConfig) -> None:
        """Add fresh LoRA layers, with the weights of ``init_adapter`` if the config names one."""
        layers = self.layer_modules()
        self._adapter = self.lora.start_adapter(self.model, config)
        self.coverage = coverage(layers, self._adapter)
        if config.init_adapter:
            directory = published(Path(config.init_adapter))
            with beginning_from(directory):
                check_can_begin_from(read_description(directory), self._adapter)
                self._load(directory)

    def _load(self, directory: Path) -> None:
        check_safetensors(directory / ADAPTER_FILE)
        self.lora.load_weights(self.model, self.read_arrays(directory / ADAPTER_FILE))
        self.weights_change()

    def load_adapter(self, directory: Path) -> None:
        """Load a trained adapter in mlx-lm's format."""
        with fitting_its_base(directory):
            self.lora.add_adapter(self.model, read_description(directory))
            self._load(directory)
        self.model.eval()

    def switch_adapter(self, directory: Path | None) -> None:
        """Replace the loaded adapter by another one, or by none; the base stays in memory."""
        if self._base_layers is None:
            self._base_layers = self.lora.BaseLayers.of(self.model)
        else:
            self._base_layers.restore(self.model)
            self.weights_change()
        if directory is None:
            self.model.eval()
        else:
            self.load_adapter(directory)

    def describe_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write the ``adapter_config.json`` of the adapter in training."""
        write_description(directory, base, self._adapter)

    def save_adapter(self, directory: Path, base: ResolvedModel) -> None:
        """Write the adapter in mlx-lm's format."""
        self.describe_adapter(directory, base)
        temporary = directory / f".{ADAPTER_FILE}.tmp.safetensors"
        with writing(directory / ADAPTER_FILE):
            os.close(create_file(temporary, directory / ADAPTER_FILE))
        self._save(temporary, self.lora.stored_weights(self.model))
        replace_file(temporary, directory / ADAPTER_FILE)

    @property
    def _training(self) -> Any:
        if self._step is None:
            raise RuntimeError("attach_lora must be called before training")
        self.weights_change()
        return self._step

    def train_step(self, micro_batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """Run one optimizer step over the micro-batches."""
        with self.explained():
            return self._training(micro_batches, step, learning_rate)

    def save_state(self, file: Path) -> None:
        """Write the trained parameters and optimizer state."""
        self._save(file, self._training.state())

    def load_state(self, file: Path) -> None:
        """Read the trained parameters and optimizer state."""
        with going_on_from(file):
            self._training.set_state(self.read_arrays(file))

    def broadcast_state(self) -> None:
        """Broadcast the trained parameters and optimizer state of rank 0."""
        self._training.share()

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the all-reduce sums of values over all processes."""
        return self.distributed.all_reduce_sum(values, self.group)

    def broadcast(self, message: bytes) -> bytes:
        """Broadcast the message of rank 0."""
        return self.distributed.broadcast_bytes(message, self.group)

    def _save(self, file: Path, arrays: dict[str, Any]) -> None:
        """Write safetensors; raise UserError if the disk is full, or the write fails."""
        with writing(file):
            try:
                self.write_arrays(file, arrays)
            except self.incomplete as error:
                file.unlink(missing_ok=True)
                raise OSError(errno.ENOSPC, "the file came out incomplete") from error
