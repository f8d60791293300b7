"""OpenAI response format: chat completions, parts of a stream, and error messages."""

from __future__ import annotations

import json
from typing import Any

from ..errors import shortened
from .http import RequestFailed
from .reply import Reply, rate


def message_of(error: Any) -> str:
    """Return the message of an ``error`` field, which is an object with one or the text itself."""
    return str(error.get("message", error) if isinstance(error, dict) else error)


def read_choice(content: dict[str, Any], part: str) -> dict[str, Any]:
    """Return ``message`` or ``delta`` of the first choice.

    Raises:
        RequestFailed: there is none.
    """
    found = first_choice(content).get(part)
    if not isinstance(found, dict):
        raise RequestFailed(f"its answer has no {part} in choices (it says {shortened(json.dumps(content))})")
    return found


def merged(last: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a stream so far: its finish reason, usage and timings."""
    choice = {"finish_reason": finish_of(part) or finish_of(last)}
    kept = {key: part.get(key) or last.get(key) for key in ("usage", "timings")}
    return {**kept, "choices": [choice]}


def first_choice(content: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice of a completion or of a part of a stream; an empty object without one."""
    choices = content.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def finish_of(content: dict[str, Any]) -> Any:
    """Return the finish reason of the first choice; ``None`` without one."""
    return first_choice(content).get("finish_reason")


def read_reply(content: dict[str, Any]) -> Reply:
    """Read a chat completion; ``timings`` is llama.cpp's own addition.

    Raises:
        RequestFailed: it has no message.
    """
    text = read_choice(content, "message").get("content")
    tokens, timings = int(number(content.get("usage"), "completion_tokens")), content.get("timings")
    return Reply(
        str(text or ""),
        prompt_tokens=int(number(content.get("usage"), "prompt_tokens")),
        completion_tokens=tokens,
        first_token_s=number(timings, "prompt_ms") / 1000 or None,
        # The first token comes with the prompt.
        tokens_per_second=rate(tokens - 1, number(timings, "predicted_ms") / 1000),
        stopped=finish_of(content) == "stop",
    )


def number(content: Any, key: str) -> float:
    """Return a number of an object; 0 where there is none."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, (int, float)) and value == value and abs(value) < 1e15 else 0
