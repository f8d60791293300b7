"""Generation of answers: in batches where the model's KV caches allow it, or else one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import mlx.core as mx
import mlx.nn as nn
from mlx_lm import batch_generate
from mlx_lm.generate import generate_step
from mlx_lm.tokenizer_utils import TokenizerWrapper

from .trunk import UNFIT

Sampler = Callable[[mx.array], mx.array]


def answer_together(
    model: nn.Module, tokenizer: TokenizerWrapper, prompts: Sequence[list[int]], max_tokens: int, sampler: Sampler
) -> list[str]:
    """Return the answers to prompts, generated in batches."""
    return batch_generate(model, tokenizer, list(prompts), max_tokens=max_tokens, sampler=sampler).texts


def answer_in_turn(
    model: nn.Module, tokenizer: TokenizerWrapper, prompts: Sequence[list[int]], max_tokens: int, sampler: Sampler
) -> list[str]:
    """Return the answers to prompts, generated one by one."""
    answers = []
    for prompt in prompts:
        tokens = []
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=max_tokens, sampler=sampler):
            if token in tokenizer.eos_token_ids:
                break
            tokens.append(int(token))
        answers.append(tokenizer.decode(tokens))
    return answers


class _Numbers:
    """Tokenizer whose texts are token ids, without an EOS token."""

    eos_token_ids: tuple[int, ...] = ()

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def can_batch(model: nn.Module, vocabulary: int) -> bool:
    """Return True if a batch of prompts of different lengths has the same answers as one by one.

    Some caches cannot be batched, and some models take a batch's positions from its first row.
    """
    numbers = [number % vocabulary for number in range(3, 23)]
    prompts = [numbers[:7], numbers]

    def greedy(logits: mx.array) -> mx.array:
        return mx.argmax(logits, axis=-1)

    with suppress(*UNFIT):
        together, apart = (f(model, _Numbers(), prompts, 3, greedy) for f in (answer_together, answer_in_turn))
        return together == apart
    return False
