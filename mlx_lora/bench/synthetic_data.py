"""Synthetic datasets for timing: rows of (token ids, length of the prompt, weight), shaped like real datasets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.tokenize import EncodedExample
from ..errors import UserError


@dataclass
class Row:
    """Prompt and one answer; the answer is supervised."""

    ids: np.ndarray
    prompt: int
    weight: float = 1.0

    def encoded(self) -> EncodedExample:
        """Return the row as an encoded example."""
        supervised = np.arange(len(self.ids)) >= self.prompt
        return EncodedExample(self.ids.astype(np.int32), supervised, self.weight)


def _drawn(
    lengths: Callable[[np.random.Generator], tuple[int, int, int]], weighted: bool = False
) -> Callable[[int, int, np.random.Generator], list[Row]]:
    """Return a maker of rows with Zipf-like token frequencies; ``lengths`` gives (common, own prompt, answer)."""

    def make(count: int, vocabulary: int, rng: np.random.Generator) -> list[Row]:
        def tokens(length: int) -> np.ndarray:
            return (vocabulary ** rng.uniform(0, 1, length)).astype(np.int64)

        shared = tokens(4096)
        rows = []
        for _ in range(count):
            common, own, answer = lengths(rng)
            ids = np.r_[shared[:common], tokens(own + answer)]
            rows.append(Row(ids, common + own, float(rng.uniform(0.5, 1.5)) if weighted else 1.0))
        return rows

    return make


def _eisv(rng: np.random.Generator) -> tuple[int, int, int]:
    # Lengths with Llama 3's tokenizer and template, measured on 180 examples of `mlx-lora data eisv`.
    return 80, int(rng.integers(119, 128)), int(rng.integers(22, 36))


def _salience(rng: np.random.Generator) -> tuple[int, int, int]:
    # Lengths of real buffers: 94 to 565 tokens, a short question under a system prompt, and a long answer.
    total, own = int(np.clip(rng.lognormal(5.3, 0.45), 94, 565)), int(rng.integers(8, 20))
    return 70, own, total - 70 - own


def _unique(rng: np.random.Generator) -> tuple[int, int, int]:
    total = int(rng.integers(60, 400))
    return 0, total - round(0.3 * total), round(0.3 * total)


DATASETS: dict[str, Callable[[int, int, np.random.Generator], list[Row]]] = {
    "eisv": _drawn(_eisv),
    "eisv-like": _drawn(lambda rng: (80, 90, 30)),
    "salience": _drawn(_salience, weighted=True),
    "unique": _drawn(_unique),
    "worst": _drawn(lambda rng: (0, 1, 191)),
    "traces": _drawn(lambda rng: (400, int(rng.integers(400, 1200)), int(rng.integers(100, 400)))),
    "long": _drawn(lambda rng: (1024, int(rng.integers(900, 960)), int(rng.integers(32, 64)))),
}


def make_rows(data: str, count: int, vocabulary: int, seed: int) -> list[Row]:
    """Return the rows of a dataset; the same seed gives the same rows.

    Raises:
        UserError: the dataset is unknown; the message lists the known ones.
    """
    if data not in DATASETS:
        raise UserError(f"--data {data}: there is no such dataset; use one of {', '.join(DATASETS)}")
    return DATASETS[data](count, vocabulary, np.random.default_rng(seed))
