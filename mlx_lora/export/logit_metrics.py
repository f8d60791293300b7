"""How near two models' answers are: logits, probabilities, and the greedy text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Agreement:
    """A model's logits beside the reference's, over all positions.

    Attributes:
        largest: the largest difference of a logit, absolute.
        relative: the differences' root mean square, in standard deviations of the reference's logits.
        divergence: mean Kullback-Leibler divergence KL(reference ‖ model) of the next token's distribution, in nats.
        top1: share of positions where both find the same token likeliest.
    """

    largest: float
    relative: float
    divergence: float
    top1: float


def agreement(reference: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Agreement:
    """Compare float32 [positions, vocabulary] logits, prompt by prompt; what is not finite is infinitely far."""
    largest = squares = variances = divergence = 0.0
    same = positions = 0
    for ours, theirs in zip(reference, found, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            return Agreement(float("inf"), float("inf"), float("inf"), 0.0)
        difference = theirs - ours
        largest = max(largest, float(np.abs(difference).max()))
        # A constant added to all logits of a position changes nothing.
        squares += float(difference.var(axis=1).sum())
        variances += float(ours.var(axis=1).sum())
        p, q = _log_softmax(ours), _log_softmax(theirs)
        divergence += float((np.exp(p) * (p - q)).sum())
        same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        positions += len(ours)
    # A reference whose logits are all the same says nothing.
    relative = (squares / variances) ** 0.5 if variances > 0 else float("inf")
    return Agreement(largest, relative, divergence / positions, same / positions)


def same_greedy(expected: Sequence[int], found: Sequence[int], logits: np.ndarray, tie: float) -> int:
    """How many of the greedy tokens are the same; all of them where the first other one was as good as a tie.

    Args:
        logits: the reference's, float32 [tokens, vocabulary], each before its expected token.
        tie: by how much a token's logit may be below the best.
    """
    for i, token in enumerate(expected):
        if i >= len(found) or found[i] != token:
            near = i < len(found) and logits[i, token] - logits[i, found[i]] <= tie
            return len(expected) if near else i
    return len(expected)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64, since sums over a vocabulary of small differences are wanted."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
