"""Scorers: functions that judge one answer and say why it failed. docs/evaluation.md lists their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError, nearest, shortened
from . import (
    claims,
    code,
    command,
    degeneration,
    expression_coherence,
    json_schema,
    python_function,
    refusal,
    sections,
    text,
    tool_call,
)
from .base import CheckSpec, Factory, Score, Scorer, Summarize

__all__ = ["METRICS", "SCORERS", "SUMMARIES", "CheckSpec", "Score", "Scorer", "make_scorer"]

SCORERS: dict[str, Factory] = {
    "contains": text.contains,
    "contains_all": text.contains_all,
    "not_contains": text.not_contains,
    "regex": text.regular_expression,
    "sections": sections.sections,
    "json_schema": json_schema.json_schema,
    "tool_call": tool_call.tool_call,
    "refusal": refusal.refusal,
    "code": code.code,
    "expression_coherence": expression_coherence.expression_coherence,
    "claims": claims.claims,
    "degeneration": degeneration.degeneration,
    "identity": text.identity,
    "command": command.command,
    "python": python_function.python_function,
}
# Metrics over a whole suite, of the scorers that have some; they come before the means over cases.
SUMMARIES: dict[str, Summarize] = {
    "refusal": refusal.summarize,
    "expression_coherence": expression_coherence.summarize,
    "claims": claims.summarize,
    "degeneration": degeneration.summarize,
    "command": command.summarize,
}
# Metrics that a threshold may be on, besides pass_rate; a user's own function has its own.
METRICS: dict[str, set[str]] = {
    "contains_all": {"found"},
    "not_contains": {"found"},
    "sections": {"found"},
    "tool_call": {"parsed", "right_tool", "right_values"},
    "refusal": {"f1", "precision", "recall"},
    "expression_coherence": {"mean_coherence", "balanced_coherence", "valid_rate", "pattern_accuracy", "diversity"},
    "claims": {"schema", "citation", "entailment", "similarity"},
    "identity": {"name", "role"},
}


def make_scorer(spec: CheckSpec, profile: str | None, folder: Path, default: str | None = None) -> Scorer:
    """Return the scorer of a check.

    Args:
        profile: the one that the user asks for; it comes before the check's own.
        folder: of the suite's file, where the files are that a check names.
        default: the suite's profile, for a check without its own.

    Raises:
        UserError: an unknown name, or wrong options.
    """
    if spec.name not in SCORERS:
        raise UserError(
            f"{spec.where}: there is no check {shortened(spec.name)}; the nearest is {nearest(spec.name, SCORERS)!r}"
        )
    own = isinstance(spec.options, Mapping) and "profile" in spec.options
    return SCORERS[spec.name](spec.options, spec.where, profile or (None if own else default), folder)
