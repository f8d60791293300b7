"""Models in memory: a few bases, each with the adapter in use and its running batches; for one thread."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...backends.answering import AnswerBatch
from .catalogue import ServedModel

if TYPE_CHECKING:
    from ...backends import Backend


@dataclass
class _Base:
    backend: Backend
    # Unequal to any key: no adapter has been switched to yet, or switching failed.
    adapter: Any = ""
    batches: dict[Any, AnswerBatch] = field(default_factory=dict)
    used: float = 0.0

    @property
    def busy(self) -> bool:
        return any(map(len, self.batches.values()))


class Engine:
    """Bases in memory, the least recently used of which makes place for another.

    Args:
        backend: as ``load_backend`` takes it.
        most: number of bases that are kept.
    """

    def __init__(self, backend: str, most: int) -> None:
        self._backend, self._most = backend, most
        self._bases: dict[Any, _Base] = {}

    def can_use(self, model: ServedModel) -> bool:
        """Return True if a model's base is in memory, or can be without driving out one whose answers grow."""
        room = len(self._bases) < self._most or not all(base.busy for base in self._bases.values())
        return model.base_key in self._bases or room

    def use(self, model: ServedModel) -> tuple[Backend, AnswerBatch]:
        """Return the backend with a model's adapter in use, and the running batch of that adapter.

        Raises:
            UserError: the base or the adapter cannot be loaded.
        """
        base = self._bases.get(model.base_key) or self._load(model)
        base.used = time.monotonic()
        if base.adapter != model.adapter_key:
            base.adapter = ""
            base.backend.switch_adapter(model.adapter)
            base.adapter = model.adapter_key
            base.batches = {key: batch for key, batch in base.batches.items() if len(batch)}
        if model.adapter_key not in base.batches:
            base.batches[model.adapter_key] = base.backend.open_batch()
        return base.backend, base.batches[model.adapter_key]

    def forget_batch(self, model: ServedModel) -> None:
        """Drop the running batch of a model that failed; its adapter is switched to anew."""
        if (base := self._bases.get(model.base_key)) is not None:
            base.batches.pop(model.adapter_key, None)
            base.adapter = ""

    def forget(self, model: ServedModel) -> None:
        """Drop a base that failed, with all its batches: its state is unknown."""
        self._bases.pop(model.base_key, None)
        gc.collect()

    def _load(self, model: ServedModel) -> _Base:
        from ...backends import load_backend

        while len(self._bases) >= self._most:
            idle = [key for key, base in self._bases.items() if not base.busy]
            del self._bases[min(idle, key=lambda key: self._bases[key].used)]
        # Two large bases at once may not fit.
        gc.collect()
        base = _Base(load_backend(model.base, self._backend, model.in_4bit, wide=True))
        self._bases[model.base_key] = base
        return base
