"""Joint score of a case: all checks of a suite on one answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..engines.reply import Reply
from .cases import Case
from .scorers.base import Score, Scorer


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
