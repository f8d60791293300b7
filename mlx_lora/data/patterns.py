"""Patterns of prompts, and the cap on the examples of one of them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter

from .dedup import words_of


def pattern_of(prompt: str) -> str:
    """Normalise a prompt: prompts that differ only in case, punctuation, spaces and numbers have one pattern."""
    return " ".join(words_of(re.sub(r"\d+", "0", prompt))) or prompt


def pattern_limit(counts: Counter[str], share: float) -> tuple[int, bool]:
    """Return the maximum number of examples per prompt so that none has more than ``share`` of those kept.

    The largest c with c ≤ share · Σ min(n, c), and True. Where not even 1 is possible, since there are too few
    prompts: an even share of the examples, and False.
    """
    sizes = list(counts.values())
    if not sizes:
        return 1, True

    def too_many(most: int) -> bool:
        return most > share * sum(min(size, most) for size in sizes) + 1e-9

    if too_many(1):
        return -(-sum(sizes) // len(sizes)), False
    # Once too many, every larger number is as well (monotone), so that bisection applies.
    return bisect_left(range(1, max(sizes) + 1), True, key=too_many), True
