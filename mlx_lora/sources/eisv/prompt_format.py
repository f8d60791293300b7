"""Prompt and output format: the text of a trajectory, and the three lines of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .trajectory import DIMENSIONS, FIRST, SECOND, TrajectoryShape, known_shape, mean
from .vocabulary import ALL_TOKENS, INQUIRY_TOKENS, LUMEN_TOKENS, ExpressionPattern

SYSTEM_PROMPT = (
    "You map an EISV trajectory to an expression. Answer in three lines:\n"
    "EISV_TOKENS: ~token~ ...\nLUMEN_TOKENS: word ...\nPATTERN: SINGLE|PAIR|TRIPLE|REPETITION|QUESTION"
)
SHAPE_LINE = "shape: "
PATTERN_NAMES = tuple(pattern.name for pattern in ExpressionPattern)


def pattern_name(pattern: ExpressionPattern | str) -> str:
    """Return a pattern as it is written in text, e.g. ``PAIR``."""
    return (pattern.value if isinstance(pattern, ExpressionPattern) else str(pattern)).upper()


def expression_pattern(tokens: Sequence[str]) -> str:
    """Return the pattern, as written in text, of one to three tokens."""
    if len(tokens) == 1:
        return "SINGLE"
    if len(tokens) == 2:
        if tokens[0] == tokens[1]:
            return "REPETITION"
        return "QUESTION" if tokens[1] in INQUIRY_TOKENS else "PAIR"
    return "TRIPLE"


def summarize_window(window: Mapping[str, Any]) -> dict[str, Any]:
    """Summarize a window: number of states, duration in seconds, and the three groups of means."""
    states = window["states"]
    return {
        "n_states": len(states),
        "duration_s": states[-1]["t"] - states[0]["t"] if states else 0.0,
        "mean": {key: mean(states, key) for key in DIMENSIONS},
        "derivative": {key: mean(window.get("derivatives", []), key) for key in FIRST},
        "second_derivative": {key: mean(window.get("second_derivatives", []), key) for key in SECOND},
    }


def format_summary(shape: TrajectoryShape | str, summary: Mapping[str, Any]) -> str:
    """Format the input text from the numbers of :func:`summarize_window`.

    Raises:
        ValueError: an unknown shape.
    """

    def group(name: str, keys: Sequence[str], spec: str) -> str:
        return ", ".join(f"{key}={summary[name][key]:{spec}}" for key in keys)

    return (
        f"TRAJECTORY:\nshape: {known_shape(shape).value}\n"
        f"window: {summary['n_states']} states over {summary['duration_s']:.0f}s\n"
        f"eisv_mean: {group('mean', DIMENSIONS, '.2f')}\n"
        f"derivatives: {group('derivative', FIRST, '+.3f')}\n"
        f"second_derivatives: {group('second_derivative', SECOND, '+.3f')}"
    )


def hide_shape(text: str) -> str:
    """Remove the line ``shape: NAME`` from an input text: the class must then be inferred from the numbers."""
    return "\n".join(line for line in text.split("\n") if not line.startswith(SHAPE_LINE))


def name_shape(text: str, shape: TrajectoryShape | str) -> str:
    """Write the line ``shape: NAME`` as the second of an input text, in place of one that is there."""
    head, *rest = hide_shape(text).split("\n")
    return "\n".join([head, f"{SHAPE_LINE}{known_shape(shape).value}", *rest])


def format_trajectory_input(shape: TrajectoryShape | str, window: Mapping[str, Any]) -> str:
    """Format the input text of a window from ``compute_trajectory_window``."""
    return format_summary(shape, summarize_window(window))


def format_eisv_prompt(eisv_state: Mapping[str, float], shape: TrajectoryShape | str) -> str:
    """Return the published three-line prompt of one state; a missing key counts as 0.0.

    Raises:
        ValueError: an unknown shape.
    """
    state = " ".join(f"{key}={eisv_state.get(key, 0.0)}" for key in DIMENSIONS)
    return f"EISV State: {state}\nTrajectory: {known_shape(shape).value}\nExpress this state using primitive tokens."


def format_expression_output(
    eisv_tokens: Sequence[str], lumen_tokens: Sequence[str], pattern: ExpressionPattern | str
) -> str:
    """Format the three lines of an answer."""
    return (
        f"EISV_TOKENS: {' '.join(eisv_tokens)}\n"
        f"LUMEN_TOKENS: {' '.join(lumen_tokens)}\n"
        f"PATTERN: {pattern_name(pattern)}"
    )


@dataclass
class OutputParseResult:
    """Parsed answer."""

    eisv_tokens: list[str] = field(default_factory=list)
    lumen_tokens: list[str] = field(default_factory=list)
    pattern: str = ""
    valid: bool = False


def parse_model_output(text: str) -> OutputParseResult:
    """Parse the three lines of an answer in any text; ``valid`` only if all three are there. Never raises."""
    found: dict[str, str] = {}
    for line in str(text).splitlines():
        key, colon, value = line.strip().partition(":")
        if colon and key in ("EISV_TOKENS", "LUMEN_TOKENS", "PATTERN"):
            found.setdefault(key, value.strip())
    return OutputParseResult(
        eisv_tokens=found.get("EISV_TOKENS", "").split(),
        lumen_tokens=found.get("LUMEN_TOKENS", "").split(),
        pattern=found.get("PATTERN", ""),
        valid=len(found) == 3,
    )


def validate_output(result: OutputParseResult) -> bool:
    """Return True if all three lines are there, every token is in its vocabulary and the pattern is known."""
    return (
        result.valid
        and all(token in ALL_TOKENS for token in result.eisv_tokens)
        and all(token in LUMEN_TOKENS for token in result.lumen_tokens)
        and result.pattern in PATTERN_NAMES
    )
