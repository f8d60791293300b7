"""Datasets for timing: (token ids, length of the prompt, weight) rows, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.encode import EncodedExample, encode_example
from ..data.example import Example
from ..errors import UserError


@dataclass
class Row:
    """A prompt and one answer; the answer is supervised."""

    ids: np.ndarray
    prompt: int
    weight: float = 1.0

    def encoded(self) -> EncodedExample:
        supervised = np.arange(len(self.ids)) >= self.prompt
        return EncodedExample(self.ids.astype(np.int32), supervised, self.weight)


def eisv_rows(count: int, vocabulary: int, rng: np.random.Generator) -> list[Row]:
    """Synthetic trajectories in the built-in base's tokens: one system prompt, answers of some 17 tokens."""
    from transformers import AutoTokenizer

    from ..models.resolve import BUILT_IN
    from ..sources.eisv import build_training_dataset, format_chat_messages

    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN["builtin/tiny-lumen"])
    examples = build_training_dataset([], -(-count // 9))
    order = rng.permutation(len(examples))[:count]
    encoded = [encode_example(tokenizer, Example(format_chat_messages(examples[i])), 4096) for i in order]
    return [Row(e.ids, int(e.supervised.argmax())) for e in encoded]


def _drawn(
    lengths: Callable[[np.random.Generator], tuple[int, int, int]], weighted: bool = False
) -> Callable[[int, int, np.random.Generator], list[Row]]:
    """Rows of random tokens; ``lengths`` gives (common, own prompt, answer)."""

    def make(count: int, vocabulary: int, rng: np.random.Generator) -> list[Row]:
        shared = rng.integers(1, vocabulary, 4096)
        rows = []
        for _ in range(count):
            common, own, answer = lengths(rng)
            ids = np.r_[shared[:common], rng.integers(1, vocabulary, own + answer)]
            rows.append(Row(ids, common + own, float(rng.uniform(0.5, 1.5)) if weighted else 1.0))
        return rows

    return make


def _salience(rng: np.random.Generator) -> tuple[int, int, int]:
    # Lengths as in real buffers: 94 to 565 tokens, of which the system prompt 70 and about half the answer.
    total = int(np.clip(rng.lognormal(5.3, 0.45), 94, 565))
    answer = max(10, int((total - 70) * rng.uniform(0.5, 0.8)))
    return 70, max(8, total - 70 - answer), answer


def _unique(rng: np.random.Generator) -> tuple[int, int, int]:
    total = int(rng.integers(60, 400))
    return 0, total - round(0.3 * total), round(0.3 * total)


DATASETS: dict[str, Callable[[int, int, np.random.Generator], list[Row]]] = {
    "eisv": eisv_rows,
    "eisv-like": _drawn(lambda rng: (80, 90, 30)),
    "salience": _drawn(_salience, weighted=True),
    "unique": _drawn(_unique),
    "worst": _drawn(lambda rng: (0, 1, 191)),
    "traces": _drawn(lambda rng: (400, int(rng.integers(400, 1200)), int(rng.integers(100, 400)))),
}


def make_rows(data: str, count: int, vocabulary: int, seed: int) -> list[Row]:
    """The rows of a dataset; the same seed gives the same.

    Raises:
        UserError: an unknown dataset; the known ones are named.
    """
    if data not in DATASETS:
        raise UserError(f"--data {data}: there is no such dataset; use one of {', '.join(DATASETS)}")
    return DATASETS[data](count, vocabulary, np.random.default_rng(seed))
