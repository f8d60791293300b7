"""Schema of an experience: the record's keys, its id, and the dialects in which agents have written it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

Experience = dict[str, Any]

DIMENSIONS = ("surprise", "novelty", "arousal", "reward", "conflict")
KEYS = ("id", "prompt", "response", "salience", "session", "phase", "timestamp", "metadata")
# (prompt, response, salience) as the generations of agents named them.
DIALECTS = (
    ("prompt", "response", "salience"),
    ("text", "response", "salience"),
    ("user_input", "model_response", "salience_scores"),
    ("input_text", "output_text", "salience_score"),
)
# Maximum length: a longer text is a log or a damaged file, not an exchange.
LONGEST_TEXT = 100_000
# 2100-01-01 in seconds; a larger epoch is one of milliseconds.
LAST_SECOND = 4_102_444_800


def experience_id(prompt: str, response: str) -> str:
    """Return the first 16 hexadecimal digits of sha256 of ``"{prompt}|{response}"`` in UTF-8."""
    return hashlib.sha256(f"{prompt}|{response}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def mean_salience(scores: dict[str, float]) -> float:
    """Return the total: the unweighted mean of the five dimensions."""
    return sum(scores[name] for name in DIMENSIONS) / len(DIMENSIONS)


def parse_experience(row: Any) -> Experience:
    """Parse a row into a record with the keys of :data:`KEYS` in their order, then its other keys.

    ``salience`` is ``None`` where the row carries none; of dialects that score with one number it is
    ``{"total": number}``. Other keys of a dialect are stored in ``metadata``.

    Raises:
        ValueError: the row cannot be used; the reason is the same sentence for every row of its kind.
    """
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    names = next((names for names in DIALECTS if names[0] in row and names[1] in row), None)
    if names is None:
        raise ValueError("no prompt and response")
    prompt, response = row[names[0]], row[names[1]]
    check_texts(prompt, response)
    try:
        prompt.encode(), response.encode()
        others = {key: value for key, value in row.items() if key not in names[:2]}
        json.dumps(others, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("half a character (a lone surrogate), or a number that is not finite") from None
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("metadata that is not an object")
    identity = row.get("id")
    record = {
        "id": identity if isinstance(identity, str) and identity else experience_id(prompt, response),
        "prompt": prompt,
        "response": response,
        "salience": _salience(row.get(names[2])),
        "session": row["session"] if type(row.get("session")) is int else None,
        "phase": row["phase"] if isinstance(row.get("phase"), str) else None,
        "timestamp": iso_time(row.get("timestamp")),
        "metadata": dict(metadata or {}),
    }
    rest = {key: value for key, value in row.items() if key not in record and key not in names}
    if names is DIALECTS[0]:
        return {**record, **rest}
    record["metadata"].update(rest)
    return record


def check_texts(prompt: Any, response: Any) -> None:
    """Raise ValueError unless both are texts of an exchange, neither empty nor too long."""
    for name, text in (("prompt", prompt), ("response", response)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"no text in its {name}")
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"{name} of more than {LONGEST_TEXT:,} characters")


def _salience(value: Any) -> dict[str, float] | None:
    if value is None:
        return None
    scores = value if isinstance(value, dict) else {"total": value}
    if "total" not in scores and all(_is_score(scores.get(name)) for name in DIMENSIONS):
        scores = {**scores, "total": mean_salience(scores)}
    known = {name: scores[name] for name in (*DIMENSIONS, "total") if name in scores}
    if "total" not in known or not all(map(_is_score, known.values())):
        raise ValueError("a salience that is not a number from 0 to 1")
    return known


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def iso_time(value: Any) -> str | None:
    """Return a timestamp as ISO 8601: text unchanged (naive and local, as agents write it), an epoch in UTC (+00:00).

    ``None`` for what is neither.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(value / 1000 if value > LAST_SECOND else value, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
