"""Expression generator: weighted sampling of tokens for a shape, and translation to Lumen's primitives."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from .trajectory import TrajectoryShape, shape_name
from .vocabulary import (
    ALL_TOKENS,
    INQUIRY_TOKENS,
    SHAPE_PATTERN_WEIGHTS,
    SHAPE_TOKEN_AFFINITY,
    SHAPE_TRIGGERS,
    TOKEN_MAP,
    ExpressionPattern,
    expression_trajectory_coherence,
)

AFFINE_WEIGHT, PLAIN_WEIGHT = 3.0, 1.0
LEARNING_RATE = 0.08
MIN_WEIGHT, MAX_WEIGHT = 0.1, 10.0
# Enough for every shape's weights to reach their clamps; the coherence of the draws then stays where it is.
FEEDBACK_ROUNDS = 5000


class ExpressionGenerator:
    """Sampler of expressions by per-shape token weights, which feedback updates.

    Args:
        seed: seeds the draws; the same seed and calls give the same expressions.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._rng = random.Random(seed)
        self._weights = {
            shape: {token: AFFINE_WEIGHT if token in affine else PLAIN_WEIGHT for token in ALL_TOKENS}
            for shape, affine in SHAPE_TOKEN_AFFINITY.items()
        }

    def get_weights(self, shape: TrajectoryShape | str) -> dict[str, float]:
        """Return a copy of the token weights of a shape, empty for an unknown one."""
        return dict(self._weights.get(shape_name(shape), {}))

    def generate(self, shape: TrajectoryShape | str) -> list[str]:
        """Draw one to three tokens; for an unknown shape uniformly, with settled_presence's patterns."""
        name = shape_name(shape)
        weights = self.get_weights(name) or dict.fromkeys(ALL_TOKENS, PLAIN_WEIGHT)
        patterns = SHAPE_PATTERN_WEIGHTS.get(name, SHAPE_PATTERN_WEIGHTS["settled_presence"])
        pattern = self._rng.choices(list(patterns), list(patterns.values()))[0]
        if pattern == ExpressionPattern.PAIR.value:
            return self._distinct(weights, 2)
        if pattern == ExpressionPattern.TRIPLE.value:
            return self._distinct(weights, 3)
        token = self._distinct(weights, 1)
        if pattern == ExpressionPattern.REPETITION.value:
            return token * 2
        if pattern == ExpressionPattern.QUESTION.value:
            return [*token, self._rng.choice(INQUIRY_TOKENS)]
        return token

    def _distinct(self, weights: dict[str, float], count: int) -> list[str]:
        drawn: list[str] = []
        for _ in range(count):
            left = [token for token in weights if token not in drawn]
            drawn += self._rng.choices(left, [weights[token] for token in left])
        return drawn

    def update_weights(self, shape: TrajectoryShape | str, tokens: Sequence[str], score: float) -> None:
        """Move the weights of ``tokens`` by 0.08 · 2(score − 0.5), clamped to [0.1, 10]; score in [0, 1]."""
        weights = self._weights.get(shape_name(shape), {})
        for token in tokens:
            if token in weights:
                moved = weights[token] + LEARNING_RATE * 2 * (score - 0.5)
                weights[token] = min(MAX_WEIGHT, max(MIN_WEIGHT, moved))


def feedback_generator(seed: int | None = None, rounds: int = FEEDBACK_ROUNDS) -> ExpressionGenerator:
    """Return a generator after ``rounds`` expressions per shape, each scored by its coherence and fed back."""
    generator = ExpressionGenerator(seed)
    for shape in TrajectoryShape:
        for _ in range(rounds):
            tokens = generator.generate(shape)
            generator.update_weights(shape, tokens, expression_trajectory_coherence(shape, tokens))
    return generator


def translate_expression(eisv_tokens: Sequence[str]) -> list[str]:
    """Map EISV tokens to Lumen's primitives: the first unused one of each, at most three, unknown tokens skipped."""
    lumen: list[str] = []
    for token in eisv_tokens:
        fresh = [primitive for primitive in TOKEN_MAP.get(token, []) if primitive not in lumen]
        lumen += fresh[:1]
    return lumen[:3]


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def eisv_state_to_lumen_state(eisv: Mapping[str, float]) -> dict[str, float]:
    """Return Lumen's warmth, clarity, stability and presence, each in [0, 1]; a missing key counts as 0."""
    return {
        "warmth": _unit(eisv.get("E", 0.0)),
        "clarity": _unit(eisv.get("I", 0.0)),
        "stability": _unit(1 - eisv.get("S", 0.0)),
        "presence": _unit(1 - eisv.get("V", 0.0) / 0.3),
    }


def shape_to_lumen_trigger(shape: TrajectoryShape | str) -> dict[str, Any]:
    """Return Lumen's trigger for a shape: whether to speak, the reason, and the number of tokens."""
    reason, hint = SHAPE_TRIGGERS.get(shape_name(shape), ("unknown_shape", 0))
    return {"should_generate": hint > 0, "reason": reason, "token_count_hint": hint}


def generate_lumen_expression(
    shape: TrajectoryShape | str, eisv_state: Mapping[str, float], generator: ExpressionGenerator | None = None
) -> dict[str, Any]:
    """Generate an expression for a shape in both vocabularies, with Lumen's state and trigger."""
    tokens = (generator or ExpressionGenerator()).generate(shape)
    return {
        "shape": shape_name(shape),
        "eisv_tokens": tokens,
        "lumen_tokens": translate_expression(tokens),
        "lumen_state": eisv_state_to_lumen_state(eisv_state),
        "trigger": shape_to_lumen_trigger(shape),
    }
