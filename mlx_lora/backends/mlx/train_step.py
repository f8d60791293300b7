"""Training step on MLX: exact gradient accumulation over micro-batches, gradient clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from ...config import TrainingConfig
from ...data.collate import Batch
from .. import StepResult
from ..adapter_format import check_shapes
from ..loss_plan import LossPath
from .distributed import all_reduce_sum, broadcast
from .gradients import Gradients


def make_optimizer(config: TrainingConfig) -> optim.Optimizer:
    """Return the optimizer of a config; its learning rate is set at each step."""
    if config.optimizer == "adafactor":
        return optim.Adafactor(
            learning_rate=0.0, weight_decay=config.weight_decay, relative_step=False, scale_parameter=False
        )
    return optim.AdamW(learning_rate=0.0, weight_decay=config.weight_decay, bias_correction=True)


class TrainStep:
    """Optimizer step over the trainable parameters of a model, with gradients accumulated over micro-batches.

    Args:
        group: distributed group whose gradients are all-reduced.
        compiled: compile the gradient for each shape of batch; by default only on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        path: LossPath,
        config: TrainingConfig,
        group: mx.distributed.Group | None = None,
        compiled: bool | None = None,
    ) -> None:
        self.model, self.config, self.group = model, config, group or mx.distributed.init()
        self.optimizer = make_optimizer(config)
        self.optimizer.init(model.trainable_parameters())
        # On the CPU, compiling costs half a second per shape and gains nothing.
        compiled = mx.default_device() == mx.Device(mx.gpu) if compiled is None else compiled
        self._gradients = Gradients(model, path, compiled)

    def __call__(self, micro_batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """Run one optimizer step over the micro-batches."""
        self.model.train()
        # Dropout is a function of seed, step and rank, so that no PRNG state has to be saved.
        seed = (self.config.seed * 1_000_003 + step + self.group.rank() * 7_919_000_011) % 2**63
        loss = plain = mx.array(0.0)
        total: Any = None
        for (weighted, unweighted), gradient in self._gradients(micro_batches, seed):
            total = gradient if total is None else tree_map(mx.add, total, gradient)
            loss, plain = loss + weighted, plain + unweighted
            mx.eval(total, loss, plain)
        if total is None:  # this process has no example of the step
            total = tree_map(mx.zeros_like, self.model.trainable_parameters())
        counts = [sum(batch.tokens for batch in micro_batches), sum(batch.padded_tokens for batch in micro_batches)]
        tokens, padded_tokens, *sums = all_reduce_sum([*counts, float(loss), float(plain)], self.group)
        share = tokens / self.group.size()
        total = tree_map(lambda g: g / share, nn.utils.average_gradients(total, self.group))
        total, norm = optim.clip_grad_norm(total, self.config.grad_clip or float("inf"))
        result = StepResult(sums[0] / tokens, sums[1] / tokens, float(norm), int(tokens), int(padded_tokens))
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            self.optimizer.learning_rate = learning_rate
            self.optimizer.update(self.model, total)
            mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return result

    def state(self) -> dict[str, mx.array]:
        """Return the trained parameters and optimizer state, by name."""
        return {
            **{f"model.{name}": value for name, value in tree_flatten(self.model.trainable_parameters())},
            **{f"optimizer.{name}": value for name, value in tree_flatten(self.optimizer.state)},
        }

    def set_state(self, arrays: dict[str, mx.array]) -> None:
        """Restore what ``state`` returned, here or on torch.

        Raises:
            ValueError: names or shapes differ from this model's.
        """
        expected = {name: value.shape for name, value in self.state().items()}
        # The torch backend writes the adamw8bit state twice, the second time in eight bits.
        arrays = {name: value for name, value in arrays.items() if not name.startswith("eight_bit.")}
        check_shapes({name: value.shape for name, value in arrays.items()}, expected)

        def under(prefix: str) -> Any:
            return tree_unflatten([(n.removeprefix(prefix), v) for n, v in arrays.items() if n.startswith(prefix)])

        self.model.update(under("model."))
        self.optimizer.state = under("optimizer.")
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)

    def share(self) -> None:
        """Broadcast the state of rank 0."""
        if self.group.size() > 1:
            # Same order on every process: a loaded state orders its names differently from a fresh one.
            self.set_state({name: broadcast(value, self.group) for name, value in sorted(self.state().items())})
