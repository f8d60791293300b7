"""Scorer of collapsed answers: loops, echoes, questions for answers, evasions, roles played, thoughts left open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError, nearest
from ...sources.salience.degeneration import made_of_stock_phrases
from ...sources.salience.filters import CHECKS, Filters, answer_fault
from ..cases import Case
from .base import Score, Scorer, as_list, prompt_text, read_options

# Checks of one answer; "cut" only where it is asked for, since max_tokens cuts answers that have not collapsed.
OF_ONE_ANSWER = ("think", "roles", "questions", "short", "echo", "repeated", "evasion", "cut")
DEFAULT = OF_ONE_ANSWER[:-1]


def degeneration(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers without a sign of collapse; ``checks`` names the signs to look for.

    Metric: ``collapsed``.
    """
    given = read_options(options, where, "degeneration", {"checks": "texts"}, main="checks")
    checks = as_list(given.get("checks", list(DEFAULT)))
    for name in checks:
        if name not in OF_ONE_ANSWER:
            raise UserError(
                f"{where}: degeneration has no check {name!r}; the nearest is {nearest(name, OF_ONE_ANSWER)!r}"
            )
    filters = Filters(skip=frozenset(CHECKS).difference(checks))

    def score(case: Case, answer: str) -> Score:
        fault = answer_fault(answer, filters, prompt_text(case))
        reason = f"the answer is degenerate ({fault}): {CHECKS[fault]}" if fault else ""
        return Score(fault is None, reason, {"collapsed": float(fault is not None)})

    return score


def summarize(cases: Sequence[Case], answers: Sequence[str], scores: Sequence[Score]) -> dict[str, Any]:
    """Return the share of answers that are made of stock phrases, which only several answers show."""
    marked, _ = made_of_stock_phrases(answers)
    return {"stock_phrases": sum(marked) / len(marked) if marked else 0.0}
