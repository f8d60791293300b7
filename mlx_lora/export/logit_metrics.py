"""Logit comparison metrics (differences, KL divergence, top-1 agreement, greedy tokens) and their tolerances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Agreement:
    """Agreement of a model's logits with the reference's, over all positions.

    Attributes:
        largest: the largest absolute difference of a logit.
        relative: root mean square of the differences, in standard deviations of the reference's logits.
        divergence: mean KL divergence KL(reference ‖ model) of the next token's distribution, in nats.
        top1: share of positions where both have the same top-1 token.
    """

    largest: float
    relative: float
    divergence: float
    top1: float


@dataclass(frozen=True)
class ExportLimits:
    """Tolerances of a file type against the adapter; see :class:`Agreement`."""

    relative: float
    divergence: float
    top1: float


# About five times the values of small models with weights far sharper than any trained model's; a missing permutation,
# bias or RoPE scaling is far beyond.
LIMITS = {
    "f32": ExportLimits(1e-3, 1e-6, 0.99),
    "f16": ExportLimits(0.03, 1e-3, 0.95),
    "bf16": ExportLimits(0.15, 0.01, 0.9),
    "q8_0": ExportLimits(0.25, 0.05, 0.7),
    "q6_k": ExportLimits(0.3, 0.1, 0.7),
    "q5": ExportLimits(0.4, 0.2, 0.65),
    "q4": ExportLimits(0.6, 0.35, 0.5),
}
COARSEST = ExportLimits(1.0, 1.0, 0.3)


def limits_of(kind: str) -> ExportLimits:
    """Return the tolerances of a type, by its whole name or its number of bits."""
    return LIMITS.get(kind) or LIMITS.get(kind.removeprefix("i")[:2]) or COARSEST


def compare_logits(reference: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Agreement:
    """Compare float32 [positions, vocabulary] logits, prompt by prompt; non-finite ones are infinitely far."""
    largest = squares = variances = divergence = 0.0
    same = positions = 0
    for ours, theirs in zip(reference, found, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            return Agreement(float("inf"), float("inf"), float("inf"), 0.0)
        difference = theirs - ours
        largest = max(largest, float(np.abs(difference).max()))
        # A constant added to all logits of a position does not change the softmax.
        squares += float(difference.var(axis=1).sum())
        variances += float(ours.var(axis=1).sum())
        p, q = _log_softmax(ours), _log_softmax(theirs)
        divergence += float((np.exp(p) * (p - q)).sum())
        same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        positions += len(ours)
    # If all logits of the reference are equal, a comparison is meaningless.
    relative = (squares / variances) ** 0.5 if variances > 0 else float("inf")
    return Agreement(largest, relative, divergence / positions, same / positions)


def same_greedy(expected: Sequence[int], found: Sequence[int], logits: np.ndarray, tie: float) -> int:
    """Count the equal greedy tokens up to the first mismatch; all of them if that mismatch was a near tie.

    Args:
        logits: the reference's, float32 [tokens, vocabulary], each before its expected token.
        tie: how far a token's logit may be below the top-1 token's.
    """
    for i, token in enumerate(expected):
        if i >= len(found) or found[i] != token:
            near = i < len(found) and logits[i, token] - logits[i, found[i]] <= tie
            return len(expected) if near else i
    return len(expected)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Compute log-softmax in float64, since small differences are summed over a vocabulary."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
