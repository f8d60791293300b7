"""Training step on torch: exact gradient accumulation over micro-batches, gradient clipping, the config's optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ...config import TrainingConfig
from ...data.collate import Batch, with_same_prefix
from .. import StepResult
from ..loss_plan import LossPath
from .distributed import Processes, all_reduce_sum, broadcast, sum_all
from .lora import decoder_layers, load_weights, stored_weights, trained
from .loss import BatchArrays, SharedPrefix, loss_sums
from .optimizers import eight_bit_of, make_optimizer, set_state, state_of


def compile_layers(model: nn.Module) -> None:
    """Compile each layer except its attention, once for all batch shapes: norms and MLP with their LoRA."""
    for layer in decoder_layers(model):
        for name, part in layer.named_children():
            if "attn" not in name:
                part.compile(dynamic=True)


class TrainStep:
    """Optimizer step over the trainable parameters of a model, with gradients accumulated over micro-batches.

    Args:
        processes: distributed processes whose gradients are all-reduced.
    """

    def __init__(
        self, model: nn.Module, path: LossPath, config: TrainingConfig, processes: Processes | None = None
    ) -> None:
        self.model, self.config, self.processes = model, config, processes or Processes()
        self.path = replace(path, checkpoint=config.grad_checkpoint)
        if config.torch_compile:
            compile_layers(model)
        self.parameters = trained(model)
        self.optimizer = make_optimizer(config, list(self.parameters.values()))

    def __call__(self, micro_batches: Sequence[Batch], step: int, learning_rate: float) -> StepResult:
        """Run one optimizer step over the micro-batches."""
        self.model.train()
        # Dropout is a function of seed, step and rank, so that no PRNG state has to be saved.
        torch.manual_seed((self.config.seed * 1_000_003 + step + self.processes.rank * 7_919_000_011) % 2**63)
        parameters = list(self.parameters.values())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        sums = torch.zeros(2, device=parameters[0].device)
        for together in with_same_prefix(micro_batches):
            sums += self._backward([BatchArrays.of(batch, parameters[0].device) for batch in together])
        counts = [sum(batch.tokens for batch in micro_batches), sum(batch.padded_tokens for batch in micro_batches)]
        tokens, padded_tokens, *losses = all_reduce_sum([*counts, *sums.tolist()], self.processes)
        gradients = [parameter.grad for parameter in parameters]
        sum_all(gradients, self.processes)
        torch._foreach_div_(gradients, tokens)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip or math.inf)
        result = StepResult(losses[0] / tokens, losses[1] / tokens, float(norm), int(tokens), int(padded_tokens))
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        return result

    def _backward(self, batches: Sequence[BatchArrays]) -> torch.Tensor:
        """Accumulate the gradients of batches with one prefix; return their (weighted, plain) loss sums."""
        several = len(batches) > 1 and self.path.share_prefix and not self.path.plain
        shared = SharedPrefix(self.model, self.path, batches[0].prefix) if several else None
        sums = torch.zeros(2, device=batches[0].prefix.device)
        for batch in batches:
            weighted, plain = loss_sums(self.model, self.path, batch, shared)
            weighted.backward()
            sums += torch.stack([weighted.detach(), plain.detach()])
        if shared:
            shared.backward()
        return sums

    def state(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters and optimizer state, by MLX's names and in its layout, on the host."""
        optimizer = state_of(self.optimizer, self.parameters)
        return {
            **{f"model.{name}": value for name, value in stored_weights(self.model).items()},
            **{f"optimizer.{name}": value for name, value in optimizer.items()},
            **{f"eight_bit.{name}": value for name, value in eight_bit_of(self.optimizer, self.parameters).items()},
        }

    def set_state(self, arrays: dict[str, torch.Tensor]) -> None:
        """Restore what ``state`` returned, here or on MLX."""

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {n.removeprefix(prefix): value for n, value in arrays.items() if n.startswith(prefix)}

        load_weights(self.model, under("model."))
        set_state(self.optimizer, self.parameters, under("optimizer."), under("eight_bit."))

    def share(self) -> None:
        """Broadcast the state of rank 0."""
        if self.processes.size > 1:
            self.set_state({n: broadcast(value, self.processes) for n, value in sorted(self.state().items())})
