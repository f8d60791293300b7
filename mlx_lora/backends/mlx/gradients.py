"""Gradients of an optimizer step, part by part; a prefix that several parts share is computed once.

The caches' states after the prefix are an input of each part. Their gradient is summed over the parts and goes back
through the prefix at the end, which is computed a second time for it, so that no part's memory holds the prefix's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ...data.collate import Batch, with_same_prefix
from ..loss_plan import LossPath
from .loss import BatchArrays, loss_sums
from .prefix import arrays_of, caches_after, copies, set_arrays

# ((weighted, plain) loss sums, gradient of the weighted sum) of a part.
Part = tuple[tuple[mx.array, mx.array], Any]


class Gradients:
    """Gradients of a step's parts by the trainable parameters.

    Args:
        compiled: compile for each shape of batch.
    """

    def __init__(self, model: nn.Module, path: LossPath, compiled: bool) -> None:
        self.model, self.path = model, path
        # Caches by length of the prefix: the values in them that are not arrays depend on the length alone.
        self._caches: dict[int, list[Any]] = {}
        state = [model.state, mx.random.state]
        compile_: Callable[[Any], Any] = partial(mx.compile, inputs=state, outputs=state) if compiled else lambda f: f
        self._alone, self._states = compile_(self._alone_of), compile_(self._states_of)
        self._after, self._through = compile_(self._after_of), compile_(self._through_of)

    def __call__(self, batches: Sequence[Batch], seed: int) -> Iterator[Part]:
        """Yield the parts of a step; their sums and gradients add up to the step's.

        Args:
            seed: seed of the dropout masks.
        """
        for number, together in enumerate(with_same_prefix(batches)):
            own_seed = (seed + number * 982_451_653_000_003) % 2**63
            mx.random.seed(own_seed)
            if len(together) > 1 and self.path.share_prefix:
                yield from self._sharing(together, own_seed)
                continue
            for batch in together:
                yield self._alone(*BatchArrays.of(batch).arrays())

    def _sharing(self, batches: Sequence[Batch], seed: int) -> Iterator[Part]:
        prefix = mx.array(batches[0].prefix)
        states = self._states(prefix)
        mx.eval(states)
        total: Any = None
        for batch in batches:
            sums, (gradient, by_states) = self._after(states, *BatchArrays.of(batch).arrays())
            total = by_states if total is None else tree_map(mx.add, total, by_states)
            mx.eval(total)
            yield sums, gradient
        # Same dropout masks as in the first computation.
        mx.random.seed(seed)
        yield (mx.array(0.0), mx.array(0.0)), self._through(prefix, total)

    def _alone_of(self, *arrays: mx.array) -> Part:
        return nn.value_and_grad(self.model, lambda model: loss_sums(model, self.path, BatchArrays(*arrays)))(
            self.model
        )

    def _states_of(self, prefix: mx.array) -> list[mx.array]:
        caches = caches_after(self.model, self.path, prefix)
        self._caches[prefix.size] = copies(caches)
        return arrays_of(caches)

    def _after_of(self, states: list[mx.array], *arrays: mx.array) -> Any:
        batch = BatchArrays(*arrays)

        def sums(parameters: Any, states: list[mx.array]) -> tuple[mx.array, mx.array]:
            self.model.update(parameters)
            caches = copies(self._caches[batch.prefix.size])
            set_arrays(caches, states)
            return loss_sums(self.model, self.path, batch, caches)

        return mx.value_and_grad(sums, argnums=(0, 1))(self.model.trainable_parameters(), states)

    def _through_of(self, prefix: mx.array, by_states: list[mx.array]) -> Any:
        def weighted(model: nn.Module) -> mx.array:
            # Linear in the states, so that its gradient is the parts' own.
            pairs = zip(arrays_of(caches_after(model, self.path, prefix)), by_states, strict=True)
            return sum((mx.sum(s * g) for s, g in pairs if mx.issubdtype(s.dtype, mx.floating)), mx.array(0.0))

        return nn.value_and_grad(self.model, weighted)(self.model)[1]
