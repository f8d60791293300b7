"""Cross-entropy loss of a batch on torch: logits at supervised positions only, a common prefix computed once; exact.

The optimizations are those of the MLX backend, found by the same probe: at load, a few tokens go through each of them.
One that does not agree with the model's own logits (scaled logits, sliding windows, recurrent layers) is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ...data.collate import Batch
from ..loss_plan import LossPath, agrees
from .lora import decoder_layers

# Logits held at once, in elements: 256 MB in float32 on a GPU, the size of a CPU's caches, for any vocabulary.
LOGITS_AT_ONCE = {"cuda": 2**26, "cpu": 2**20}
# Fewer positions per chunk make slow products.
LEAST_POSITIONS = 16
PROBE = 12


class Prefix(DynamicLayer):
    """KV cache of a layer for the common prefix, [1, heads, length, dimension], attached to the autograd graph."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the keys and values of the prefix and return them."""
        # Set, not appended: a checkpointed layer is computed twice.
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values


class AfterPrefix(DynamicLayer):
    """KV cache of a layer with the common prefix in front of each row of a batch."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values with the prefix's in front."""

        def prepend(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            return torch.cat([prefix.expand(own.shape[0], -1, -1, -1), own], dim=-2)

        return prepend(self.keys, keys), prepend(self.values, values)


def narrowed(layer: nn.Module, positions: torch.Tensor, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
    """Compute a model's last layer with its MLP restricted to the positions that predict a supervised token.

    Args:
        layer: a pre-norm layer, as in Llama, Qwen and Mistral.
        positions: int [positions], flat indices into [batch, length].
    """
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)
    h = (hidden_states + attended).flatten(0, 1).index_select(0, positions)[None]
    return h + layer.mlp(layer.post_attention_layernorm(h))


@contextmanager
def _computed_as(layers: nn.ModuleList, path: LossPath, positions: torch.Tensor | None) -> Iterator[None]:
    """Patch the layers by the loss path for one forward pass: narrow the last one, checkpoint all of them."""
    forwards: dict[nn.Module, Callable] = {}
    if positions is not None and path.narrow:
        forwards[layers[-1]] = partial(narrowed, layers[-1], positions)
    if path.checkpoint and torch.is_grad_enabled():
        plain = {layer: forwards.get(layer, layer.forward) for layer in layers}
        forwards = {layer: partial(checkpoint, forward, use_reentrant=False) for layer, forward in plain.items()}
    try:
        for layer, forward in forwards.items():
            layer.forward = forward
        yield
    finally:
        for layer in forwards:
            del layer.forward


def find_path(model: nn.Module) -> LossPath:
    """Find the loss computation that the model allows, by a probe of a few tokens."""
    with torch.no_grad(), in_base_dtype(model):
        tokens = torch.arange(1, PROBE + 1, device=model.device)[None]
        expected = model(input_ids=tokens, use_cache=False).logits
        head = model.get_output_embeddings()
        try:
            # Identical operations: not one bit may differ.
            if type(head) is not nn.Linear or not torch.equal(head(decoded(model, tokens)), expected):
                return LossPath(plain=True)
        except (AttributeError, TypeError, ValueError):
            return LossPath(plain=True)
        shares = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        shares = shares and _agree(lambda: head(_after_prefix(model, tokens)), expected[:, 5:])
        positions, narrow = torch.tensor([3, 7, 8], device=model.device), LossPath(narrow=True)
        narrows = _agree(lambda: head(_hidden(model, narrow, tokens, positions, None)), expected[:, positions])
    return LossPath(False, shares, narrows)


def _agree(attempt: Callable[[], torch.Tensor], expected: torch.Tensor) -> bool:
    def numbers(logits: torch.Tensor) -> np.ndarray:
        return logits.float().cpu().numpy()

    return agrees(lambda: numbers(attempt()), numbers(expected), expected.dtype == torch.float32)


def _after_prefix(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return decoded(model, tokens[:, 5:], _prefix_of(model, tokens[:, :5], LossPath()))


def in_base_dtype(model: nn.Module) -> AbstractContextManager:
    """Return an autocast to the base's dtype if that is half as wide as the adapter's float32."""
    return nullcontext() if model.dtype == torch.float32 else torch.autocast(model.device.type, model.dtype)


def decoded(model: nn.Module, ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
    """Return the post-norm hidden states [batch, length, hidden]."""
    decoder = model.get_decoder()
    return decoder(input_ids=ids, use_cache=cache is not None, **{cache_name(decoder): cache}).last_hidden_state


def cache_name(model: nn.Module) -> str:
    """Return the name of the KV cache's argument: newer versions of transformers warn about the older name."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


def _prefix_of(model: nn.Module, ids: torch.Tensor, path: LossPath) -> Cache:
    """Return the KV cache that a batch sees after a prefix [1, length]."""
    layers = decoder_layers(model)
    cache = Cache(layers=[Prefix() for _ in layers])
    with _computed_as(layers, path, None):
        decoded(model, ids, cache)
    return Cache(layers=[AfterPrefix(layer.keys, layer.values) for layer in cache.layers])


class SharedPrefix:
    """Prefix that several batches of a step share: computed once, its gradient summed over them."""

    def __init__(self, model: nn.Module, path: LossPath, ids: torch.Tensor) -> None:
        with in_base_dtype(model):
            cache = _prefix_of(model, ids[None], path)
        self._made = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        self._leaves = [tensor.detach().requires_grad_() for tensor in self._made]

    def cache(self) -> Cache:
        """Return the KV cache that one of the batches sees."""
        pairs = zip(self._leaves[::2], self._leaves[1::2], strict=True)
        return Cache(layers=[AfterPrefix(keys, values) for keys, values in pairs])

    def backward(self) -> None:
        """Backpropagate the gradient summed over the batches so far through the prefix."""
        pairs = zip(self._made, self._leaves, strict=True)
        given = [(made, leaf.grad) for made, leaf in pairs if made.requires_grad and leaf.grad is not None]
        if given:
            torch.autograd.backward([made for made, _ in given], [gradient for _, gradient in given])


def _hidden(
    model: nn.Module, path: LossPath, ids: torch.Tensor, positions: torch.Tensor, cache: Cache | None
) -> torch.Tensor:
    """Return the post-norm hidden states [positions, hidden] at flat positions of ``ids`` [batch, length]."""
    layers = decoder_layers(model)
    with _computed_as(layers, path, positions):
        hidden = decoded(model, ids, cache)
    return hidden[0] if path.narrow else hidden.flatten(0, 1).index_select(0, positions)


@dataclass
class BatchArrays:
    """Tensors of a :class:`Batch` on the device."""

    prefix: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> BatchArrays:
        """Put a batch on the device."""
        arrays = (batch.prefix, batch.ids, batch.positions, batch.targets, batch.weights)
        prefix, ids, positions, targets, weights = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(prefix.long(), ids.long(), positions.long(), targets.long(), weights)


class FusedLinearCrossEntropy(torch.autograd.Function):
    """Fused linear cross-entropy of a frozen head: (weighted, plain) sums, N positions at a time.

    A chunk's gradient is computed while its logits are in memory, so that none are kept or recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor, weights: torch.Tensor, rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (weighted, plain) sums; save the gradient by ``hidden``."""
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weighted, plain = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = functional.linear(hidden[part], head.weight, head.bias).float()
            columns, row_weights = targets[part, None], weights[part, None]
            at_target, total = logits.gather(1, columns), logits.logsumexp(1, keepdim=True)
            losses = total - at_target
            weighted += (losses * row_weights).sum()
            plain += (losses * (row_weights > 0)).sum()
            if gradient is not None:
                # Softmax minus one at the target, times the weight.
                by_logits = logits.sub_(total).exp_().mul_(row_weights)
                by_logits.scatter_(1, columns, by_logits.gather(1, columns) - row_weights)
                gradient[part] = by_logits.to(head.weight.dtype) @ head.weight
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(plain)
        return weighted, plain

    @staticmethod
    def backward(ctx: Any, by_weighted: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the saved gradient by ``hidden``, scaled."""
        (gradient,) = ctx.saved_tensors
        return (by_weighted.to(gradient.dtype) * gradient, None, None, None, None)


def loss_sums(
    model: nn.Module, path: LossPath, batch: BatchArrays, shared: SharedPrefix | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (weighted, plain) cross-entropy sums over a batch's supervised tokens, in float32.

    Args:
        shared: the batch's prefix, if it has been computed.
    """
    if path.plain:
        return plain_loss_sums(model, batch, path)
    spoken, head = _spoken(model, path, batch, shared), model.get_output_embeddings()
    return FusedLinearCrossEntropy.apply(spoken, head, batch.targets, batch.weights, _rows(spoken, head.out_features))


def log_probabilities(model: nn.Module, path: LossPath, batch: BatchArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return (log-probability, is top-1) of the token at each of a batch's positions, padding included."""
    spoken = _plain_logits(model, batch, path) if path.plain else _spoken(model, path, batch, None)
    head = nn.Identity() if path.plain else model.get_output_embeddings()
    rows = _rows(spoken, spoken.shape[1] if path.plain else head.out_features)
    logprobs, top = [], []
    for start in range(0, len(spoken), rows):
        logits, targets = head(spoken[start : start + rows]).float(), batch.targets[start : start + rows]
        logprobs.append((logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)).cpu().numpy())
        top.append((logits.argmax(1) == targets).cpu().numpy())
    return np.concatenate(logprobs), np.concatenate(top)


def _rows(spoken: torch.Tensor, vocabulary: int) -> int:
    """Return the number of positions whose logits are computed at once."""
    return max(LEAST_POSITIONS, LOGITS_AT_ONCE[spoken.device.type] // vocabulary)


def _spoken(model: nn.Module, path: LossPath, batch: BatchArrays, shared: SharedPrefix | None) -> torch.Tensor:
    """Return the hidden states at a batch's positions, in the head's dtype."""
    with in_base_dtype(model):
        if len(batch.prefix) and path.share_prefix:
            cache = shared.cache() if shared else _prefix_of(model, batch.prefix[None], path)
            spoken = _hidden(model, path, batch.ids, batch.positions, cache)
        else:
            row = batch.positions // batch.ids.shape[1]
            positions = batch.positions + (row + 1) * len(batch.prefix)
            spoken = _hidden(model, path, _with_prefix(batch), positions, None)
    return spoken.to(model.get_output_embeddings().weight.dtype)


def _with_prefix(batch: BatchArrays) -> torch.Tensor:
    return torch.cat([batch.prefix[None].expand(len(batch.ids), -1), batch.ids], dim=1)


def plain_loss_sums(
    model: nn.Module, batch: BatchArrays, path: LossPath | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of ``loss_sums`` from the logits of every position: the reference, which any model allows."""
    spoken = _plain_logits(model, batch, path or LossPath()).float()
    losses = functional.cross_entropy(spoken, batch.targets, reduction="none")
    return (losses * batch.weights).sum(), (losses * (batch.weights > 0)).sum()


def _plain_logits(model: nn.Module, batch: BatchArrays, path: LossPath) -> torch.Tensor:
    """Return the logits at a batch's positions, by the model itself."""
    with in_base_dtype(model), _computed_as(decoder_layers(model), path, None):
        logits = model(input_ids=_with_prefix(batch), use_cache=False).logits[:, len(batch.prefix) :]
    return logits.flatten(0, 1).index_select(0, batch.positions)
