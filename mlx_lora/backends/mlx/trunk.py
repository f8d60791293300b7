"""Model trunk: the part of a model that ends before its logits (embeddings, layers and final norm).

It is found by calling the model: the child that is called once with the tokens and returns one vector for each. Logits
at selected positions are the model's own, computed with the hidden states there in the trunk's place, so that scaled,
capped and tied heads need no code here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

# Exceptions that a model raises if a module is called with unexpected arguments.
UNFIT = (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError)


class StandIn:
    """Proxy of a module: calls go to ``answer`` with the module first, attributes are the module's own."""

    def __init__(self, module: nn.Module, answer: Callable[..., Any]) -> None:
        self.module, self.answer = module, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __getitem__(self, name: str) -> Any:
        return self.module[name]

    def __contains__(self, name: str) -> bool:
        return name in self.module

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Call ``answer`` with the module and the arguments."""
        return self.answer(self.module, *given, **options)


class _Reached(Exception):
    """Exception raised once the trunk has returned: the rest of the model is not needed."""


@contextmanager
def _replaced(model: nn.Module, path: str, answer: Callable[..., Any]) -> Iterator[None]:
    *above, name = path.split(".")
    owner: Any = model
    for part in above:
        owner = owner[part]
    module = owner[name]
    # Set as an item, not as an attribute, to keep the order of the model's parameters.
    owner[name] = StandIn(module, answer)
    try:
        yield
    finally:
        owner[name] = module


def hidden_states(model: nn.Module, path: str, ids: mx.array, caches: list[Any] | None = None) -> mx.array:
    """Return the trunk's output [batch, length, hidden] for ``ids`` [batch, length]."""
    found: list[mx.array] = []

    def answer(trunk: nn.Module, *given: Any, **options: Any) -> Any:
        found.append(trunk(*given, **options))
        raise _Reached

    with _replaced(model, path, answer), suppress(_Reached):
        model(ids, cache=caches)
    return found[0]


def logits_from(model: nn.Module, path: str, hidden: mx.array) -> mx.array:
    """Return the logits [..., length, vocabulary] of hidden states [..., length, hidden]."""
    whole = hidden if hidden.ndim == 3 else hidden[None]
    with _replaced(model, path, lambda trunk, *given, **options: whole):
        logits = model(mx.zeros(whole.shape[:2], mx.int32))
    return logits if hidden.ndim == 3 else logits[0]


def trunk_candidates(model: nn.Module, tokens: mx.array, logits: mx.array) -> Iterator[str]:
    """Yield the paths of the modules that may be the trunk.

    Args:
        tokens: int [batch, length].
        logits: the model's own for ``tokens``. A child that returns them is a wrapper, and is searched as well.
    """
    inside: list[tuple[str, nn.Module]] = [("", model)]
    for above, module in inside:
        for name, child in list(module.items()):
            path = f"{above}.{name}" if above else name
            result = _result(model, path, tokens) if isinstance(child, nn.Module) else None
            if result is None:
                continue
            if result.shape == logits.shape and mx.array_equal(result, logits).item():
                inside.append((path, child))
            else:
                yield path


def _result(model: nn.Module, path: str, tokens: mx.array) -> mx.array | None:
    """Return the output of a module that is called once, with the tokens, and returns one vector for each."""
    calls: list[tuple[tuple, Any]] = []

    def answer(module: nn.Module, *given: Any, **options: Any) -> Any:
        result = module(*given, **options)
        calls.append(((*given, *options.values()), result))
        return result

    with _replaced(model, path, answer), suppress(*UNFIT):
        model(tokens)
    if len(calls) != 1:
        return None
    given, result = calls[0]
    asked = any(isinstance(value, mx.array) and value.shape == tokens.shape for value in given)
    fits = isinstance(result, mx.array) and result.ndim == 3 and result.shape[:2] == tokens.shape
    return result if asked and fits else None
