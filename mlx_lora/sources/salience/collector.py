"""Experience collector: scores exchanges and stores the salient ones, for one agent or several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from ...data.dedup import WORDS_ALIKE, NearDuplicates, words_of
from ...errors import UserError
from .buffer_writer import BufferStore
from .schema import DIMENSIONS, Experience, check_texts, experience_id
from .scoring import ConversationalSalienceScorer, Match

DEFAULT_BUFFER = Path("~/.mlx-lora/experience_buffer.json")
HIGH_SALIENCE = 0.7
# Collapse status: window of last responses, minimum number, and the share of similar pairs that is a collapse.
RECENT, ENOUGH, ALIKE_PAIRS = 10, 3, 0.5


class ExperienceCollector:
    """Collector that scores exchanges and appends the salient ones to a buffer that others may write to as well.

    Args:
        path: the buffer; created with the first experience.
        salience_threshold: total from 0 to 1 from which an exchange is stored.
        machine_name, model_name: added to the metadata of stored experiences.
        match: counting of terms, see :class:`ConversationalSalienceScorer`.
        similarity_threshold: Jaccard similarity of words from which a response counts as a repetition of one that
            is stored, in this run or any before it, or that this collector was given.
        remember: score against the content of the buffer, instead of as an agent without history.

    Attributes:
        experiences: the buffer's usable experiences as of the last addition, others' included.

    Raises:
        UserError: the file exists and is not a buffer, or cannot be read.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        salience_threshold: float = 0.5,
        *,
        machine_name: str | None = None,
        model_name: str | None = None,
        match: Match = "word",
        similarity_threshold: float = WORDS_ALIKE,
        remember: bool = False,
    ):
        self.buffer_path = Path(DEFAULT_BUFFER if path is None else path)
        self.salience_threshold = salience_threshold
        self.similarity_threshold = similarity_threshold
        self.machine_name, self.model_name = machine_name, model_name
        self.scorer = ConversationalSalienceScorer(match)
        self.experiences: list[Experience] = []
        self._store = BufferStore(self.buffer_path)
        self._said = NearDuplicates(similarity_threshold)
        self._recent: list[str] = []
        self._take(self._store.refresh())
        if remember:
            for experience in self.experiences:
                self.scorer.remember(experience["response"])
            self._recent = [experience["response"] for experience in self.experiences[-RECENT:]]

    def _take(self, found: Sequence[Experience]) -> None:
        self.experiences += found
        self._said.add_all([(experience["id"], experience["response"]) for experience in found])

    def add_exchange(
        self,
        prompt: str,
        response: str,
        session_number: int | None = None,
        phase: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Score an exchange and store it if it is salient, new, and not a repetition.

        Returns:
            ``salience`` (five dimensions and total), ``stored``, ``filtered``; ``experience_id`` of what is in the
            buffer; where filtered, ``filter_reason``: "already_stored" or "repetitive_response".

        Raises:
            UserError: there is no text, or the buffer cannot be read or written; it is unchanged then.
        """
        _check(prompt, response)
        scores = self.scorer.score_exchange(prompt, response, metadata, tool_calls)
        self._recent = [*self._recent, response][-RECENT:]
        identity = experience_id(prompt, response)
        record = self._record(identity, prompt, response, scores, session_number, phase, metadata, tool_calls)
        with self._store.locked():
            self._take(self._store.refresh())
            if identity in self._store.ids:
                return _result(scores, reason="already_stored", experience_id=identity)
            if self._said.add(identity, response) is not None:
                return _result(scores, reason="repetitive_response")
            if scores["total"] < self.salience_threshold:
                return _result(scores)
            self.experiences += self._store.append([record])
        return {**_result(scores), "stored": True, "experience_id": identity}

    def _record(
        self,
        identity: str,
        prompt: str,
        response: str,
        scores: dict[str, float],
        session: int | None,
        phase: str | None,
        metadata: Mapping[str, Any] | None,
        tool_calls: Sequence[Mapping[str, Any]] | None,
    ) -> Experience:
        named = {"machine": self.machine_name, "model": self.model_name}
        record = {
            "id": identity,
            "prompt": prompt,
            "response": response,
            "salience": scores,
            "session": session,
            "phase": phase,
            "timestamp": datetime.now().isoformat(),
            "metadata": {**(metadata or {}), **{key: value for key, value in named.items() if value}},
        }
        return {**record, "tool_calls": list(tool_calls)} if tool_calls else record

    def get_high_salience_experiences(
        self, min_salience: float = HIGH_SALIENCE, limit: int | None = None
    ) -> list[Experience]:
        """Return the experiences of at least that total, the most salient first; equals in the buffer's order."""
        high = [e for e in self.experiences if e["salience"] and e["salience"]["total"] >= min_salience]
        return sorted(high, key=lambda e: -e["salience"]["total"])[:limit]

    def consolidate_for_sleep(self, min_salience: float = 0.6) -> list[Experience]:
        """Return the experiences that a sleep cycle trains on, the most salient first."""
        return self.get_high_salience_experiences(min_salience)

    def get_stats(self) -> dict[str, Any]:
        """Return :func:`buffer_stats` of the buffer."""
        return buffer_stats(self.experiences)

    def get_collapse_status(self) -> dict[str, Any]:
        """Compare the last responses, stored or not: ``collapse_detected``, the share of similar pairs, advice."""
        if len(self._recent) < ENOUGH:
            return {"collapse_detected": False, "reason": "insufficient_data", "recent_count": len(self._recent)}
        sets = [set(words_of(response)) for response in self._recent]
        pairs = [len(a & b) / max(1, len(a | b)) for a, b in combinations(sets, 2)]
        alike = sum(similarity >= self.similarity_threshold for similarity in pairs)
        collapsed = alike / len(pairs) > ALIKE_PAIRS
        return {
            "collapse_detected": collapsed,
            "repetition_ratio": alike / len(pairs),
            "high_similarity_pairs": alike,
            "total_pairs": len(pairs),
            "recent_responses": len(self._recent),
            "recommendation": "disable_lora_and_investigate" if collapsed else "normal_operation",
        }


def buffer_stats(experiences: Sequence[Experience]) -> dict[str, Any]:
    """Return the number of experiences, their salience and their time range.

    Timestamps are compared as text: agents write the local time of machines in several zones.
    """
    scores = [experience["salience"] for experience in experiences if experience["salience"]]
    totals = [score["total"] for score in scores]
    stats: dict[str, Any] = {
        "total_experiences": len(experiences),
        "avg_salience": sum(totals) / len(totals) if totals else 0.0,
        "high_salience_count": sum(total >= HIGH_SALIENCE for total in totals),
    }
    if not experiences:
        return stats
    known = {name: [score[name] for score in scores if name in score] for name in DIMENSIONS}
    times = sorted(experience["timestamp"] for experience in experiences if experience["timestamp"])
    return {
        **stats,
        "dimension_averages": {name: sum(values) / len(values) for name, values in known.items() if values},
        "oldest_experience": times[0] if times else None,
        "newest_experience": times[-1] if times else None,
    }


def _check(prompt: str, response: str) -> None:
    try:
        check_texts(prompt, response)
        f"{prompt}{response}".encode()
    except UnicodeEncodeError:
        raise UserError("this exchange holds half a character (a lone surrogate); correct its text") from None
    except ValueError as error:
        raise UserError(f"this exchange cannot be an experience ({error}); give it both texts") from None


def _result(scores: dict[str, float], reason: str | None = None, **more: Any) -> dict[str, Any]:
    filtered = {"filter_reason": reason} if reason else {}
    return {"salience": scores, "stored": False, "filtered": reason is not None, **filtered, **more}
