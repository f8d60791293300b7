"""Vocabularies of EISV and of Lumen: tokens, affinity and coherence with shapes, patterns, the map between the two."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from .trajectory import TrajectoryShape as Shape
from .trajectory import shape_name

# Coherence of the rules after their feedback loop: the threshold of Gate 1.
GATE1_COHERENCE = 0.933


class ExpressionPattern(str, Enum):
    """Pattern of an expression's tokens."""

    SINGLE = "single"
    PAIR = "pair"
    TRIPLE = "triple"
    REPETITION = "repetition"
    QUESTION = "question"


def _tokens(names: str) -> list[str]:
    return [f"~{name}~" for name in names.split()]


ALL_TOKENS = _tokens(
    "warmth curiosity resonance stillness boundary reaching reflection ripple "
    "deep_listening emergence questioning holding releasing threshold return"
)
INQUIRY_TOKENS = _tokens("questioning curiosity")

SHAPE_TOKEN_AFFINITY: dict[str, list[str]] = {
    Shape.SETTLED_PRESENCE.value: _tokens("stillness holding resonance deep_listening"),
    Shape.RISING_ENTROPY.value: _tokens("ripple emergence questioning curiosity"),
    Shape.FALLING_ENERGY.value: _tokens("releasing stillness boundary reflection"),
    Shape.BASIN_TRANSITION_DOWN.value: _tokens("releasing threshold boundary"),
    Shape.BASIN_TRANSITION_UP.value: _tokens("emergence reaching warmth return"),
    Shape.ENTROPY_SPIKE_RECOVERY.value: _tokens("ripple return holding reflection"),
    Shape.DRIFT_DISSONANCE.value: _tokens("boundary questioning reflection"),
    Shape.VOID_RISING.value: _tokens("reaching curiosity questioning threshold"),
    Shape.CONVERGENCE.value: _tokens("stillness resonance return deep_listening"),
}


def _weights(*values: float) -> dict[str, float]:
    return {pattern.value: value for pattern, value in zip(ExpressionPattern, values, strict=True)}


SHAPE_PATTERN_WEIGHTS: dict[str, dict[str, float]] = {
    Shape.SETTLED_PRESENCE.value: _weights(0.4, 0.3, 0.1, 0.15, 0.05),
    Shape.RISING_ENTROPY.value: _weights(0.1, 0.2, 0.3, 0.1, 0.3),
    Shape.FALLING_ENERGY.value: _weights(0.3, 0.3, 0.1, 0.2, 0.1),
    Shape.BASIN_TRANSITION_DOWN.value: _weights(0.2, 0.3, 0.3, 0.1, 0.1),
    Shape.BASIN_TRANSITION_UP.value: _weights(0.15, 0.3, 0.35, 0.1, 0.1),
    Shape.ENTROPY_SPIKE_RECOVERY.value: _weights(0.1, 0.3, 0.3, 0.2, 0.1),
    Shape.DRIFT_DISSONANCE.value: _weights(0.1, 0.2, 0.2, 0.1, 0.4),
    Shape.VOID_RISING.value: _weights(0.2, 0.2, 0.2, 0.1, 0.3),
    Shape.CONVERGENCE.value: _weights(0.4, 0.3, 0.1, 0.15, 0.05),
}

LUMEN_TOKENS = [
    *("warm", "cold", "bright", "dim", "quiet", "busy", "here", "feel"),
    *("sense", "you", "with", "why", "what", "wonder", "more", "less"),
]

TOKEN_MAP: dict[str, list[str]] = {
    "~warmth~": ["warm", "feel"],
    "~curiosity~": ["why", "wonder"],
    "~resonance~": ["with", "here"],
    "~stillness~": ["quiet", "here"],
    "~boundary~": ["less", "sense"],
    "~reaching~": ["more", "you"],
    "~reflection~": ["what", "feel"],
    "~ripple~": ["busy", "sense"],
    "~deep_listening~": ["quiet", "sense"],
    "~emergence~": ["more", "bright"],
    "~questioning~": ["why", "what"],
    "~holding~": ["here", "with"],
    "~releasing~": ["less", "dim"],
    "~threshold~": ["sense", "more"],
    "~return~": ["here", "warm"],
}

# shape -> (reason, token_count_hint)
SHAPE_TRIGGERS: dict[str, tuple[str, int]] = {
    Shape.SETTLED_PRESENCE.value: ("settled_dynamics", 1),
    Shape.RISING_ENTROPY.value: ("entropy_shift", 3),
    Shape.FALLING_ENERGY.value: ("energy_decline", 2),
    Shape.BASIN_TRANSITION_DOWN.value: ("basin_shift_down", 3),
    Shape.BASIN_TRANSITION_UP.value: ("basin_shift_up", 3),
    Shape.ENTROPY_SPIKE_RECOVERY.value: ("spike_recovery", 2),
    Shape.DRIFT_DISSONANCE.value: ("ethical_drift_detected", 3),
    Shape.VOID_RISING.value: ("void_expansion", 2),
    Shape.CONVERGENCE.value: ("approaching_attractor", 2),
}


def expression_trajectory_coherence(shape: Shape | str, tokens: Sequence[str]) -> float:
    """Return the share of the tokens that are affine to the shape; 0.0 for none or an unknown shape."""
    affine = SHAPE_TOKEN_AFFINITY.get(shape_name(shape), [])
    return sum(token in affine for token in tokens) / len(tokens) if tokens else 0.0
