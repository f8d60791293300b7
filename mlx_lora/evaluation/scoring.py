"""Joint score of all checks of a suite: on the answer to a case, and on documents that exist already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError, first_line
from ..user_files import read_text
from .cases import Case
from .scorers import make_scorer
from .scorers.base import Score, Scorer
from .suite import load_suite


def score_replies(scorers: Sequence[Scorer], cases: Sequence[Case], replies: Sequence[Reply]) -> list[Score]:
    """Return the score of each reply; a case that the target did not answer has not passed."""
    return [score_reply(scorers, case, reply) for case, reply in zip(cases, replies, strict=True)]


def score_reply(scorers: Iterable[Scorer], case: Case, reply: Reply) -> Score:
    """Return the joint score of all checks: passed if all pass, with the reasons of those that failed."""
    if reply.text is None:
        return Score(False, f"not answered: {reply.error}")
    return score_text(scorers, case, reply.text)


def score_text(scorers: Iterable[Scorer], case: Case, text: str) -> Score:
    """Return the joint score of all checks on a text."""
    found = [scorer(case, text) for scorer in scorers]
    # Of a metric that two checks measure, the lower value.
    metrics: dict[str, float] = {}
    for score in found:
        metrics |= {name: min(value, metrics.get(name, value)) for name, value in score.metrics.items()}
    reasons = failures(found)
    return Score(not reasons, "; ".join(reasons), metrics)


def failures(scores: Iterable[Score]) -> list[str]:
    """Return the reason of each check that did not pass."""
    return [score.reason or "a check failed" for score in scores if not score.passed]


def check_documents(files: Sequence[Path], suite: str, profile: str | None = None) -> dict[str, Any]:
    """Run the checks of a suite over documents, each as if it were an answer.

    Args:
        profile: replaces the suite's own.

    Returns:
        "suite", "profile", "files" and "passed" (counts), "results" [{"file", "passed", "reasons"}].

    Raises:
        UserError: an unknown suite or profile, a file that cannot be read, or a check that needs a case's reference.
    """
    found = load_suite(suite)
    scorers = [make_scorer(check, profile, found.file.parent, found.profile) for check in found.checks]
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            text = read_text(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: this document cannot be read ({first_line(error)}); check the path") from None
        case = Case(str(file), [{"role": "user", "content": ""}])
        reasons = failures(scorer(case, text) for scorer in scorers)
        results.append({"file": str(file), "passed": not reasons, "reasons": reasons})
    passed = sum(result["passed"] for result in results)
    return {
        "suite": found.name,
        "profile": profile or found.profile,
        "files": len(files),
        "passed": passed,
        "results": results,
    }
