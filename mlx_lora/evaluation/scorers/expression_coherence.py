"""Scorer of EISV expressions: format, and coherence with the trajectory's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import shortened
from ...sources.eisv.prompt_format import parse_model_output, validate_output
from ...sources.eisv.trajectory import TrajectoryShape
from ...sources.eisv.vocabulary import ALL_TOKENS, GATE1_COHERENCE, expression_trajectory_coherence
from ..cases import Case
from ..constant_answer import balanced_mean, best_constant, constant_warning
from ..eisv_scoring import evaluate_predictions
from .base import Score, Scorer, case_error, read_options

SHAPES = tuple(shape.value for shape in TrajectoryShape)


def expression_coherence(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes valid expressions whose coherence is above ``above`` (Gate 1's, 0.933).

    The shape is ``meta.shape`` of a case, or its tag. Metrics: ``coherence`` (0 for an invalid answer), ``valid``.
    """
    given = read_options(options, where, "expression_coherence", {"above": "share"}, main="above")
    above = given.get("above", GATE1_COHERENCE)

    def score(case: Case, answer: str) -> Score:
        shape, parsed = _shape_of(case, where), parse_model_output(answer)
        if not validate_output(parsed):
            return Score(False, _fault(parsed), {"coherence": 0.0, "valid": 0.0})
        coherence = expression_trajectory_coherence(shape, parsed.eisv_tokens)
        passed = coherence > above
        tokens = shortened(" ".join(parsed.eisv_tokens))
        reason = "" if passed else f"{tokens} has a coherence of {coherence:.3f} with {shape}, not above {above:g}"
        return Score(passed, reason, {"coherence": coherence, "valid": 1.0})

    return score


def _shape_of(case: Case, where: str = "") -> str:
    shape = case.meta.get("shape") or next((tag for tag in case.tags if tag in SHAPES), None)
    if shape not in SHAPES:
        raise case_error(
            where, case, f"has {shortened(shape)} as its shape; write one of {', '.join(SHAPES)} as metadata.shape"
        )
    return str(shape)


def _fault(parsed: Any) -> str:
    if not parsed.valid:
        return "the answer lacks one of the lines EISV_TOKENS, LUMEN_TOKENS and PATTERN"
    wrong = [token for token in parsed.eisv_tokens if token not in ALL_TOKENS]
    if wrong:
        return f"{shortened(wrong[0])} is not a token of EISV"
    return f"the pattern {shortened(parsed.pattern)} or a token of LUMEN_TOKENS is unknown"


def _expected_pattern(case: Case) -> str | None:
    if isinstance(case.expect, Mapping):
        return case.expect.get("pattern") or None
    return parse_model_output(case.expect).pattern or None if isinstance(case.expect, str) else None


def summarize(cases: Sequence[Case], answers: Sequence[str], scores: Sequence[Score]) -> dict[str, Any]:
    """Return the metrics of Gate 1's report; mean coherence is over valid answers, balanced coherence over all."""
    shapes = [_shape_of(case) for case in cases]
    parsed = [parse_model_output(answer) for answer in answers]
    results = evaluate_predictions(
        [
            {"shape": shape, "parsed": p, "expected_pattern": _expected_pattern(case)}
            for shape, p, case in zip(shapes, parsed, cases, strict=True)
        ]
    )
    # No constant expression scores more than its best token.
    best = best_constant(shapes, ALL_TOKENS, lambda shape, token: expression_trajectory_coherence(shape, [token]))
    return {
        **asdict(results),
        "balanced_coherence": balanced_mean(shapes, [score.metrics["coherence"] for score in scores]),
        "best_constant": None if best is None else asdict(best),
        "warnings": constant_warning(best, "coherence", GATE1_COHERENCE),
        "tokens_in_use": len({token for p in parsed if validate_output(p) for token in p.eisv_tokens}),
    }
