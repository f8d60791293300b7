"""Truncation of conversations over the maximum length: prompts are truncated in the middle."""

from __future__ import annotations

import numpy as np

# Tokens that a prompt keeps at each end: the headers of its turns, and the one before the answer.
LEAST_KEPT = 8


def kept_tokens(answers: np.ndarray, size: int) -> np.ndarray | None:
    """Return bool [length], True for the tokens that stay, or None if ``size`` is too small for the answers.

    Tokens after the last answer go first, since nothing is learned from them; then the middles of the longest stretches
    between answers, until all that were truncated are of one length.

    Args:
        answers: bool [length], tokens that must stay.
        size: the most tokens that stay.
    """
    kept = np.ones(len(answers), dtype=bool)
    excess = len(answers) - size
    if excess <= 0:
        return kept
    last = int(np.flatnonzero(answers)[-1]) + 1 if answers.any() else len(answers)
    after = min(excess, len(answers) - last)
    kept[len(answers) - after :] = False
    changes = np.flatnonzero(np.diff(np.r_[True, answers[:last], True].astype(int)))
    stretches = changes.reshape(-1, 2)
    lengths = stretches[:, 1] - stretches[:, 0]
    level = _level(lengths, excess - after)
    if level is None:
        return None
    limits = _limits(lengths, level, excess - after)
    for (start, end), limit in zip(stretches, limits, strict=True):
        kept[start + (limit + 1) // 2 : end - limit // 2] = False
    return kept


def _level(lengths: np.ndarray, excess: int) -> int | None:
    """Return the largest length to which truncating all longer stretches removes ``excess`` tokens, or None."""
    low, high = 2 * LEAST_KEPT - 1, int(lengths.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        if np.maximum(lengths - middle, 0).sum() >= excess:
            low = middle
        else:
            high = middle - 1
    return low if low >= 2 * LEAST_KEPT or not excess else None


def _limits(lengths: np.ndarray, level: int, excess: int) -> np.ndarray:
    """Return the tokens that each stretch keeps; the first ones a token more, where the level removes too many."""
    limits = np.minimum(lengths, level)
    spare = int((lengths - limits).sum()) - excess
    limits[np.flatnonzero(lengths > limits)[: max(spare, 0)]] += 1
    return limits
