"""Salience scores of an exchange: surprise, novelty, arousal, reward and conflict, each from 0 to 1.

All are computed from the lower-cased response; the prompt is not used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from .schema import DIMENSIONS, mean_salience

Match = Literal["word", "substring"]

EMOTION = (
    *("feel", "sense", "realize", "understand", "appreciate"),
    *("curious", "interesting", "important", "fascinating", "profound"),
)
PARTNERSHIP = ("we", "us", "our", "together", "collaborate", "partnership")
PRECISION = ("specifically", "precisely", "exactly", "particular")
HEDGING = ("might", "possibly", "perhaps", "unclear", "uncertain", "as an ai")
CONFLICT = (
    *("uncertain", "unclear", "not sure", "don't know", "can't verify"),
    *("actually", "rather", "instead", "correction", "mistake"),
    *("realize", "notice", "recognize", "understand"),
)
# Responses kept, and the number of them that surprise compares with.
REMEMBERED, RECENT = 20, 5


class ConversationalSalienceScorer:
    """Scorer of successive exchanges, with the words seen so far and the last responses as its state.

    Args:
        match: unit of a term's hit: a whole ``"word"``, or any ``"substring"`` ("us" in "because"), as in the scores
            in stores of the first generation.
    """

    def __init__(self, match: Match = "word"):
        self.match = match
        self.seen_words: set[str] = set()
        self.previous_responses: list[str] = []

    def score_exchange(
        self,
        prompt: str,
        response: str,
        metadata: Mapping[str, Any] | None = None,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
    ) -> dict[str, float]:
        """Return the five dimensions and their mean, ``total``; the response is remembered for the next ones."""
        text = response.lower()
        words = set(text.split())
        scores = {
            "surprise": _surprise(text, self.previous_responses[-RECENT:]),
            "novelty": min(1.0, 3 * len(words - self.seen_words) / max(1, len(words))) if self.seen_words else 0.5,
            "arousal": _arousal(text, self.match),
            "reward": _reward(text, self.match),
            "conflict": min(1.0, hits(CONFLICT, text, self.match) / 6),
        }
        self.remember(response)
        if tool_calls:
            scores = _with_tools(scores, tool_calls)
        return {**scores, "total": mean_salience(scores)}

    def remember(self, response: str) -> None:
        """Add a response to the history."""
        text = response.lower()
        self.seen_words.update(text.split())
        self.previous_responses = [*self.previous_responses, text][-REMEMBERED:]


def score_exchange(
    prompt: str,
    response: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    scorer: ConversationalSalienceScorer | None = None,
    tool_calls: Sequence[Mapping[str, Any]] | None = None,
    match: Match = "word",
) -> dict[str, float]:
    """Score one exchange, as the first of its agent or as the next one of a ``scorer`` (whose ``match`` holds)."""
    scorer = scorer or ConversationalSalienceScorer(match)
    return scorer.score_exchange(prompt, response, metadata, tool_calls)


def hits(terms: Collection[str], text: str, match: Match) -> int:
    """Return the number of terms that occur in a lower-cased text, each counted once."""
    if match == "substring":
        return sum(term in text for term in terms)
    straight = text.replace("’", "'")
    return sum(term in straight and re.search(rf"\b{re.escape(term)}\b", straight) is not None for term in terms)


def _surprise(text: str, recent: Sequence[str]) -> float:
    """Return 1 − the share of sentences that occur verbatim in the recent responses."""
    if not recent:
        return 0.5
    joined, parts = " ".join(recent), text.split(".")
    return 1.0 - sum(bool(part.strip()) and part.strip() in joined for part in parts) / len(parts)


def _arousal(text: str, match: Match) -> float:
    """Return the mean of length, questions and words of emotion."""
    length = max(0.3, min(1.0, len(text.split()) / 50))
    question = min(1.0, text.count("?") / 2)
    emotion = min(1.0, hits(EMOTION, text, match) / 3)
    return (length + question + emotion) / 3


def _reward(text: str, match: Match) -> float:
    """Return the reward: raised by partnership and precision, lowered by hedging."""
    reward = 0.3 + 0.7 * min(1.0, hits(PARTNERSHIP, text, match) / 2)
    reward = min(1.0, reward + 0.3 * min(1.0, hits(PRECISION, text, match) / 2))
    return max(0.0, reward - 0.6 * min(1.0, hits(HEDGING, text, match) / 2))


def _with_tools(scores: Mapping[str, float], calls: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Adjust the scores of an exchange with tool calls, each capped at 1."""
    succeeded = sum(bool(call.get("success")) for call in calls)
    more = {
        "surprise": 0.2,
        "novelty": 0.1 * len({call.get("name", "") for call in calls}),
        "arousal": 0.15 * len(calls),
        "reward": 0.3 if succeeded else 0.0,
        "conflict": 0.2 * (len(calls) - succeeded),
    }
    return {name: min(1.0, scores[name] + more[name]) for name in DIMENSIONS}
