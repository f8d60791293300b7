"""Scorer of a regular expression, with a time limit: no pattern can hang an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regex

from ...errors import UserError, first_line, shortened
from ..cases import Case
from .base import Score, Scorer, read_options

OPTIONS = {"pattern": "text", "ignore_case": "flag", "whole": "flag", "absent": "flag", "time_limit": "seconds"}
SECONDS = 2.0


def compile_pattern(pattern: str, where: str, ignore_case: bool = False) -> Any:
    """Compile a pattern in the syntax of ``re``; ``^`` and ``$`` match at every line.

    Raises:
        UserError: it is not a regular expression.
    """
    try:
        return regex.compile(pattern, regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0))
    except (regex.error, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: {shortened(pattern)} is not a regular expression ({first_line(error)})") from None


def regular_expression(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers in which the pattern is found.

    Options: ``pattern``; ``whole``, it must match the whole answer; ``absent``, it must not be found.
    """
    given = read_options(options, where, "regex", OPTIONS, main="pattern")
    if "pattern" not in given:
        raise UserError(f"{where}: regex needs a pattern")
    pattern = compile_pattern(given["pattern"], where, given.get("ignore_case", False))
    whole, absent, limit = given.get("whole", False), given.get("absent", False), given.get("time_limit", SECONDS)
    shown = shortened(given["pattern"])

    def score(case: Case, answer: str) -> Score:
        try:
            text = answer.strip() if whole else answer
            found = (pattern.fullmatch if whole else pattern.search)(text, timeout=limit) is not None
        except TimeoutError:
            return Score(False, f"the pattern {shown} took more than {limit:g} seconds on this answer")
        if found != absent:
            return Score(True)
        how = "is found in the answer" if absent else "does not match the answer" if whole else "is not found"
        return Score(False, f"the pattern {shown} {how}")

    return score
