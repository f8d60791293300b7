"""Answers that grow together on MLX: rows join and leave mlx-lm's running batch, where a probe allows it.

A prompt is computed alone, from the kept prefix on, and its caches are merged into those of the running rows. Models
that a probe finds to answer otherwise in such a batch are asked row by row, in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p, greedy_sampler

from ..answering import NewToken, Sampling, TokenScore, last_token, token_scores
from ..loss_plan import agrees
from .generation import (
    PREFILL_TOKENS,
    PROBE_ANSWER,
    PROBE_OWN,
    Generation,
    Sampler,
    after_prefix,
    forced,
    logits_in_turn,
    numbers,
)
from .trunk import UNFIT

# Tokens that the first row of a probe is ahead when the second one joins it.
AHEAD = 2
# Elements of logits that are held at once where a text is scored.
SCORES_AT_ONCE = 2**24


def make_row_sampler(sampling: Sampling) -> Sampler:
    """Return a sampler of one row, with random numbers of its own."""
    if not sampling.temperature:
        return greedy_sampler
    key = mx.random.key(sampling.seed % 2**63)

    def draw(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        scaled = logprobs.astype(mx.float32) * (1 / sampling.temperature)
        scaled = scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)
        if sampling.top_p < 1:
            scaled = apply_top_p(scaled, sampling.top_p)
        return mx.random.categorical(scaled, key=own)

    return draw


def _logits_joined(model: nn.Module, prompts: Sequence[list[int]]) -> np.ndarray:
    """Return the log-probabilities [rows, answer, vocabulary] of forced answers, each row joining those before it."""
    rows: dict[int, list[mx.array]] = {}
    generator = BatchGenerator(model, sampler=forced)

    def step() -> bool:
        responses = generator.next_generated()
        for response in responses:
            rows[response.uid].append(response.logprobs)
        return bool(responses)

    for prompt in prompts:
        caches = after_prefix(model, prompt[:-1]).caches
        (number,) = generator.insert([prompt[-1:]], [PROBE_ANSWER + AHEAD], [caches])
        rows[number] = []
        for _ in range(AHEAD):
            step()
    while step():
        pass
    generator.close()
    return numbers([row[:PROBE_ANSWER] for row in rows.values()])


@dataclass
class _Row:
    sampling: Sampling
    count: int = 0


class MLXAnswerBatch:
    """Running batch; see :class:`mlx_lora.backends.answering.AnswerBatch`.

    Args:
        ends: ids of the end-of-turn tokens.
    """

    def __init__(self, generation: Generation, ends: Sequence[int]) -> None:
        self._generation, self._model, self._ends = generation, generation.model, set(ends)
        self._generator: BatchGenerator | None = None
        # By number: rows of the generator by its own number for them, others with their own steps.
        self._together: dict[int, int] = {}
        self._in_turn: dict[int, Iterator[tuple[int, mx.array]]] = {}
        self._rows: dict[int, _Row] = {}
        self._joined = 0

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, prompt: Sequence[int], sampling: Sampling, scores: list[TokenScore] | None = None) -> int:
        """Add an answer to a prompt."""
        self._joined += 1
        prompt, number, sampler = list(prompt), self._joined, make_row_sampler(sampling)
        if scores is None:
            prefix = self._generation.prefix_before(prompt, sampling.max_tokens)
            caches = after_prefix(self._model, prompt[:-1], prefix).caches
        else:
            caches = make_prompt_cache(self._model)
            scores += score_tokens(self._model, prompt, sampling.top or 0, caches)
        if joins(self._generation, len(prompt) + sampling.max_tokens):
            if self._generator is None:
                self._generator = BatchGenerator(self._model)
            # One more than are wanted: a row ends here, where its last token is told from others.
            limit = [sampling.max_tokens + 1]
            (uid,) = self._generator.insert([prompt[-1:]], limit, [caches], samplers=[sampler])
            self._together[uid] = number
        else:
            last, options = mx.array(prompt[-1:]), {"max_tokens": sampling.max_tokens, "sampler": sampler}
            self._in_turn[number] = generate_step(last, self._model, prompt_cache=caches, **options)
        self._rows[number] = _Row(sampling)
        return number

    def leave(self, row: int) -> None:
        """Take an answer out."""
        self._rows.pop(row, None)
        self._in_turn.pop(row, None)
        for uid in [uid for uid, number in self._together.items() if number == row]:
            assert self._generator is not None
            self._generator.remove([uid])
            del self._together[uid]

    def step(self) -> list[NewToken]:
        """Return the next token of each answer."""
        found = []
        for number, steps in list(self._in_turn.items()):
            token, logprobs = next(steps)
            found.append(self._new(number, int(token), logprobs))
        if self._together:
            assert self._generator is not None
            responses = self._generator.next_generated()
            found += [self._new(self._together[one.uid], one.token, one.logprobs) for one in responses]
        for new in found:
            if new.finish is not None:
                self.leave(new.row)
        return found

    def _new(self, number: int, token: int, logprobs: mx.array) -> NewToken:
        row = self._rows[number]
        row.count += 1
        score = None
        if row.sampling.top is not None:
            (score,) = _scores(logprobs[None], [token], row.sampling.top)
        return last_token(number, token, score, row.count, row.sampling, self._ends)


def _scores(logits: mx.array, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Return the scores of tokens, in float32: log-probabilities of narrower types do not sum to one.

    Args:
        logits: [tokens, vocabulary], or log-probabilities.
    """
    wide = logits.astype(mx.float32)
    logprobs = wide - mx.logsumexp(wide, axis=-1, keepdims=True)
    top = min(top, logprobs.shape[-1])
    best = mx.argpartition(-logprobs, max(0, top - 1), axis=-1)[:, :top]
    own = np.array(mx.take_along_axis(logprobs, mx.array(list(tokens))[:, None], axis=-1)[:, 0])
    return token_scores(tokens, own, np.array(best), np.array(mx.take_along_axis(logprobs, best, axis=-1)))


def score_tokens(
    model: nn.Module, tokens: Sequence[int], top: int, caches: list[Any] | None = None
) -> list[TokenScore]:
    """Return the score of each token but the first.

    Args:
        caches: empty KV caches, which hold all tokens but the last afterwards.
    """
    caches, found = caches or make_prompt_cache(model), list[TokenScore]()
    rows = max(1, min(PREFILL_TOKENS, SCORES_AT_ONCE // model(mx.array([tokens[:1]])).shape[-1]))
    for start in range(0, len(tokens) - 1, rows):
        part = tokens[start : min(start + rows, len(tokens) - 1)]
        logits = model(mx.array([part]), cache=caches)[0]
        found += _scores(logits, tokens[start + 1 : start + 1 + len(part)], top)
    return found


def joins(generation: Generation, longest: int) -> bool:
    """Return True if rows of up to ``longest`` tokens that join a running batch have the answers of one by one."""
    for case in generation.probe_cases(longest):
        if case not in generation.probed_joins:
            generation.probed_joins.add(case)
            generation.joins = generation.joins and _joins_after(generation, *case)
    return generation.joins


def _joins_after(generation: Generation, prefix_length: int, length: int) -> bool:
    model, tokens = generation.model, generation.probe_tokens(length)
    prompts = [tokens, tokens[: prefix_length + PROBE_OWN // 2]]
    exact = model(mx.array([tokens[:1]])).dtype == mx.float32
    with suppress(*UNFIT):
        expected = logits_in_turn(model, prompts, None)
        return agrees(lambda: _logits_joined(model, prompts), expected, exact)
    return False
