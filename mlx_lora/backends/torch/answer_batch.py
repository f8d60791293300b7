"""Answers that grow together on torch: row by row, in turn, each with a KV cache of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from ..answering import NewToken, Sampling, TokenScore, last_token, token_scores
from .device import explained
from .loss import cache_name, in_base_dtype

# Tokens of a text that are scored at once.
SCORE_TOKENS = 256


def _logits(model: Any, tokens: Sequence[int], cache: DynamicCache, all_of_them: bool) -> torch.Tensor:
    """Return float32 logits [tokens, vocabulary], or those of the last token alone."""
    keep = {"logits_to_keep": 1} if not all_of_them and "logits_to_keep" in signature(model.forward).parameters else {}
    ids = torch.tensor([list(tokens)], device=model.device)
    with torch.no_grad(), in_base_dtype(model), explained():
        return model(input_ids=ids, use_cache=True, **{cache_name(model): cache}, **keep).logits[0].float()


def _draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if not sampling.temperature:
        return int(logits.argmax())
    chances = torch.softmax(logits.cpu() / sampling.temperature, dim=-1)
    ordered, order = chances.sort(descending=True)
    # The first token that exceeds the sum is drawn from as well.
    ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
    return int(order[torch.multinomial(ordered, 1, generator=generator)])


def _scores(logits: torch.Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Return the scores of tokens from logits [tokens, vocabulary]."""
    logprobs = torch.log_softmax(logits, dim=-1)
    own = logprobs[torch.arange(len(tokens)), torch.tensor(list(tokens))].tolist()
    best = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    return token_scores(tokens, own, best.indices.tolist(), best.values.tolist())


class TorchAnswerBatch:
    """Running batch; see :class:`mlx_lora.backends.answering.AnswerBatch`.

    Args:
        ends: ids of the end-of-turn tokens.
    """

    def __init__(self, model: Any, ends: Sequence[int]) -> None:
        self._model, self._ends = model, set(ends)
        self._rows: dict[int, Iterator[NewToken]] = {}
        self._joined = 0

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, prompt: Sequence[int], sampling: Sampling, scores: list[TokenScore] | None = None) -> int:
        """Add an answer to a prompt."""
        self._joined += 1
        cache, rest = DynamicCache(config=self._model.config), prompt
        if scores is not None:
            scores += score_tokens(self._model, prompt, sampling.top or 0, cache)
            rest = prompt[-1:]
        logits = _logits(self._model, rest, cache, all_of_them=False)[-1]
        self._rows[self._joined] = self._steps(self._joined, logits, cache, sampling)
        return self._joined

    def leave(self, row: int) -> None:
        """Take an answer out."""
        self._rows.pop(row, None)

    def step(self) -> list[NewToken]:
        """Return the next token of each answer."""
        found = [next(steps) for steps in self._rows.values()]
        for new in found:
            if new.finish is not None:
                self.leave(new.row)
        return found

    def _steps(self, row: int, logits: torch.Tensor, cache: DynamicCache, sampling: Sampling) -> Iterator[NewToken]:
        generator = torch.Generator().manual_seed(sampling.seed % 2**63)
        for count in range(1, sampling.max_tokens + 1):
            token = _draw(logits, sampling, generator)
            score = None if sampling.top is None else _scores(logits[None], [token], sampling.top)[0]
            yield last_token(row, token, score, count, sampling, self._ends)
            logits = _logits(self._model, [token], cache, all_of_them=False)[-1]


def score_tokens(model: Any, tokens: Sequence[int], top: int, cache: DynamicCache | None = None) -> list[TokenScore]:
    """Return the score of each token but the first.

    Args:
        cache: an empty KV cache, which holds all tokens but the last afterwards.
    """
    cache, found = DynamicCache(config=model.config) if cache is None else cache, list[TokenScore]()
    for start in range(0, len(tokens) - 1, SCORE_TOKENS):
        part = tokens[start : min(start + SCORE_TOKENS, len(tokens) - 1)]
        logits = _logits(model, part, cache, all_of_them=True)
        found += _scores(logits, tokens[start + 1 : start + 1 + len(part)], top)
    return found
