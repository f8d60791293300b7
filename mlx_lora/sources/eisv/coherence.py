"""Coherence of an expression with the shape of its trajectory."""

from __future__ import annotations

from collections.abc import Sequence

from .trajectory import TrajectoryShape, shape_name
from .vocabulary import SHAPE_TOKEN_AFFINITY

# Coherence of the rules after their feedback loop: the threshold of Gate 1.
GATE1_COHERENCE = 0.933


def expression_trajectory_coherence(shape: TrajectoryShape | str, tokens: Sequence[str]) -> float:
    """Return the share of the tokens that are affine to the shape; 0.0 for none or an unknown shape."""
    affine = SHAPE_TOKEN_AFFINITY.get(shape_name(shape), [])
    return sum(token in affine for token in tokens) / len(tokens) if tokens else 0.0
