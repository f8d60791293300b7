"""Generation of answers: the prompts' common prefix computed once, then in batches, as far as the KV caches allow it.

What a model allows is found by a probe at first use, whose logits must be those of prompts answered one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm import batch_generate
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ...data.batch_encoding import LEAST_PREFIX, common_prefix
from ..loss_plan import agrees
from .prefix import arrays_of, fresh_copies, windows
from .trunk import UNFIT

Sampler = Callable[[mx.array], mx.array]
Prompts = Sequence[list[int]]

# mlx-lm's own defaults: prompts that are processed together, tokens of each at once, answers that grow together.
PREFILL_ROWS, PREFILL_TOKENS, ROWS = 8, 2048, 32
# Tokens of a probe: the common prefix, the longer prompt's own, and the answers.
PROBE_PREFIX, PROBE_OWN, PROBE_ANSWER = 6, 14, 3
# Highest log-probability that counts as none: those of masked words may be infinite.
NONE = -100.0


@dataclass(frozen=True)
class Prefix:
    """Common first tokens of prompts, and the model's KV caches after them, a batch of one."""

    tokens: list[int]
    caches: list[Any]


def after_prefix(model: nn.Module, tokens: list[int], kept: Prefix | None = None) -> Prefix:
    """Compute the KV caches after ``tokens``, from those of a shorter prefix on."""
    caches = fresh_copies(kept.caches) if kept else make_prompt_cache(model)
    for start in range(len(kept.tokens) if kept else 0, len(tokens), PREFILL_TOKENS):
        # The logits are not evaluated.
        model(mx.array([tokens[start : start + PREFILL_TOKENS]]), cache=caches)
        mx.eval(arrays_of(caches))
    return Prefix(tokens, caches)


def _own(prompts: Prompts, prefix: Prefix | None) -> list[list[int]]:
    return [prompt[len(prefix.tokens) if prefix else 0 :] for prompt in prompts]


def answer_together(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Prompts,
    max_tokens: int,
    sampler: Sampler,
    prefix: Prefix | None = None,
    prefill_rows: int = PREFILL_ROWS,
) -> list[str]:
    """Return the answers to prompts, generated in batches.

    Args:
        prefix: one that every prompt begins with, and goes on after.
        prefill_rows: prompts that are processed together; the order in which a sampler sees the rows depends on it.
    """
    # Merging copies the caches, so that all rows may have the same ones.
    caches = [prefix.caches] * len(prompts) if prefix else None
    own = _own(prompts, prefix)
    options = {"max_tokens": max_tokens, "sampler": sampler, "prefill_batch_size": prefill_rows}
    return batch_generate(model, tokenizer, own, prompt_caches=caches, **options).texts


def answer_in_turn(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Prompts,
    max_tokens: int,
    sampler: Sampler,
    prefix: Prefix | None = None,
) -> list[str]:
    """Return the answers to prompts, generated one by one."""
    answers = []
    for prompt in _own(prompts, prefix):
        tokens = []
        for token, _ in _steps(model, prompt, max_tokens, sampler, prefix):
            if token in tokenizer.eos_token_ids:
                break
            tokens.append(int(token))
        answers.append(tokenizer.decode(tokens))
    return answers


def _steps(
    model: nn.Module, prompt: list[int], max_tokens: int, sampler: Sampler, prefix: Prefix | None
) -> Iterator[tuple[int, mx.array]]:
    """Yield (token, log-probabilities) of the answer to a prompt, whose own tokens follow a prefix."""
    caches = fresh_copies(prefix.caches) if prefix else None
    return generate_step(mx.array(prompt), model, max_tokens=max_tokens, sampler=sampler, prompt_cache=caches)


def forced(logprobs: mx.array) -> mx.array:
    """Return the same token in every row, so that answers cannot part where two tokens are nearly equal."""
    return mx.ones(logprobs.shape[:1], mx.uint32)


def logits_in_turn(model: nn.Module, prompts: Prompts, prefix: Prefix | None) -> np.ndarray:
    """Return the log-probabilities [rows, answer, vocabulary] of forced answers, one by one."""
    rows = []
    for prompt in _own(prompts, prefix):
        rows.append([logprobs for _, logprobs in _steps(model, prompt, PROBE_ANSWER, forced, prefix)])
    return numbers(rows)


def _logits_together(model: nn.Module, prompts: Prompts, prefix: Prefix | None) -> np.ndarray:
    """Return the log-probabilities [rows, answer, vocabulary] of forced answers, in a batch."""
    generator = BatchGenerator(model, sampler=forced)
    caches = [prefix.caches] * len(prompts) if prefix else None
    uids = generator.insert(_own(prompts, prefix), [PROBE_ANSWER] * len(prompts), caches)
    rows: dict[int, list[mx.array]] = {uid: [] for uid in uids}
    while responses := generator.next_generated():
        for response in responses:
            rows[response.uid].append(response.logprobs)
    generator.close()
    return numbers(rows.values())


def numbers(rows: Iterable[list[mx.array]]) -> np.ndarray:
    """Return log-probabilities [rows, answer, vocabulary] on the host."""
    found = mx.stack([mx.stack(row) for row in rows]).astype(mx.float32)
    return np.maximum(np.array(found), NONE)


@dataclass
class Generation:
    """Answers of one model; the last common prefix is kept for the next prompts that begin with it.

    Attributes:
        batches: True if a batch of prompts has the answers of one by one, as far as has been probed. Some caches cannot
            be batched, and some models take a batch's positions from its first row.
        shares: True if prompts may begin from the caches after their common prefix.
        joins: True if a prompt that joins a running batch has the answer that it has alone; see ``answer_batch``.
    """

    model: nn.Module
    vocabulary: int
    batches: bool = True
    shares: bool = True
    joins: bool = True
    probed_joins: set[tuple[int, int]] = field(default_factory=set)
    _prefix: Prefix | None = None
    _last: list[int] = field(default_factory=list)
    _probed: set[tuple[int, int]] = field(default_factory=set)

    def forget(self) -> None:
        """Drop the kept prefix, whose caches are wrong once a parameter changes."""
        self._prefix, self._last = None, []

    def prefix_before(self, prompt: list[int], max_tokens: int) -> Prefix | None:
        """Return a prefix that a prompt begins with and goes on after: the kept one, or what the last one shared."""
        self._probe(len(prompt) + max_tokens)
        last, self._last = self._last, prompt
        if self.shares and last:
            self._prefix_of([prompt, last])
        return self._prefix_of([prompt])

    def answer(
        self, tokenizer: TokenizerWrapper, prompts: Prompts, max_tokens: int, temperature: float, seed: int
    ) -> list[str]:
        """Return the answers to prompts of token ids; temperature 0 is greedy.

        The same seed draws the same tokens with a prefix and without, unless prompts exceed ``PREFILL_TOKENS``: what is
        left of them after a prefix then joins mlx-lm's batch at another step.
        """
        if len(prompts) > 1 or self._prefix:
            self._probe(max(map(len, prompts)) + max_tokens)
        prefix = self._prefix_of(prompts)
        sampler = make_sampler(temp=temperature)
        mx.random.seed(seed)
        if len(prompts) < 2 or not self.batches:
            return answer_in_turn(self.model, tokenizer, prompts, max_tokens, sampler, prefix)
        # Drawn tokens depend on the order of the rows, which is mlx-lm's own; greedy ones do not.
        rows = PREFILL_ROWS if temperature else self._prefill_rows(_own(prompts, prefix))
        return answer_together(self.model, tokenizer, prompts, max_tokens, sampler, prefix, rows)

    @staticmethod
    def _prefill_rows(prompts: Prompts) -> int:
        """Return the number of prompts to process together: no more tokens at once than mlx-lm's default allows."""
        return max(PREFILL_ROWS, min(ROWS, PREFILL_ROWS * PREFILL_TOKENS // max(map(len, prompts))))

    def _prefix_of(self, prompts: Prompts) -> Prefix | None:
        """Return the prefix that the prompts share: the kept one, unless a much longer one is there."""
        if not self.shares or not self._probed:
            return None
        # Two tokens at least stay in each row: mlx-lm starts rows of one before the others, and would draw others.
        common = common_prefix([prompt[:-2] for prompt in prompts])
        kept = self._prefix
        # A single prompt shares nothing, and a part of a suite may have more in common than the whole.
        enough = 1 if len(prompts) == 1 else len(common) // 2
        if kept and enough <= len(kept.tokens) and common[: len(kept.tokens)] == kept.tokens:
            return kept
        if len(prompts) == 1 or len(common) < LEAST_PREFIX:
            return None
        begins = kept is not None and common[: len(kept.tokens)] == kept.tokens
        self._prefix = after_prefix(self.model, common, kept if begins else None)
        return self._prefix

    def probe_cases(self, longest: int) -> list[tuple[int, int]]:
        """Return prefix and length of the rows to probe, beyond each window of the caches that ``longest`` exceeds."""
        cases = [(PROBE_PREFIX, PROBE_PREFIX + PROBE_OWN)]
        for window in windows(self.model):
            if cases[0][1] <= window < longest:
                cases += [(prefix, max(prefix, window) + PROBE_OWN) for prefix in (window // 2, window + PROBE_PREFIX)]
        return cases

    def probe_tokens(self, length: int) -> list[int]:
        """Return the tokens of a probe."""
        return [number % self.vocabulary for number in range(3, 3 + length)]

    def _probe(self, longest: int) -> None:
        """Find what the model allows."""
        for case in self.probe_cases(longest):
            if case not in self._probed:
                self._probed.add(case)
                self._probe_after(*case)

    def _probe_after(self, prefix_length: int, length: int) -> None:
        """Compare two prompts of different lengths, the longer of ``length`` tokens, with both answered in turn."""
        tokens = self.probe_tokens(length)
        prompts = [tokens[: prefix_length + PROBE_OWN // 2], tokens]
        expected = logits_in_turn(self.model, prompts, None)
        exact = self.model(mx.array([tokens[:1]])).dtype == mx.float32

        def same(attempt: Callable[..., np.ndarray], length: int) -> bool:
            with suppress(*UNFIT):
                prefix = after_prefix(self.model, tokens[:length]) if length else None
                return agrees(lambda: attempt(self.model, prompts, prefix), expected, exact)
            return False

        self.batches = self.batches and same(_logits_together, 0)
        self.shares = self.shares and same(_logits_together if self.batches else logits_in_turn, prefix_length)
