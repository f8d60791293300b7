"""Rows of a JSONL document: instructions, tool calls, conversations and experiences as chunks, one a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..data.jsonl import parse_line
from .chunks import Chunk, Document

# Text keys of the known formats, in the order in which a reader would read them.
_QUESTION = ("instruction", "prompt", "question", "input")
_ANSWER = ("output", "response", "answer", "completion", "text", "content")
# Both names under which the published rows flag what must not be imitated; a bucket says it by its task type.
NEGATIVE = ("is_negative", "is_negative_example")
NEGATIVE_TASKS = frozenset({"tool_neg"})


def read_rows(document: Document) -> Iterator[Chunk]:
    """Yield a chunk for each usable row; the others are named in ``document.unusable``."""
    for number, line in enumerate(document.text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_line(line.encode())
        except ValueError as error:
            document.unusable.append((number, str(error)))
            continue
        text = _text_of(row)
        if not text:
            document.unusable.append(
                (number, "it has no text (such as instruction and output, or messages); correct it")
            )
            continue
        yield Chunk(text, (), number, {"row": number, **_metadata_of(row)})


def _text_of(row: Any) -> str:
    """Return the text of a row: question, then answer; of a tool example, instruction, input and the call."""
    if not isinstance(row, dict):
        return ""
    if isinstance(row.get("messages"), list):
        said = [m for m in row["messages"] if isinstance(m, dict) and isinstance(m.get("content"), str)]
        return "\n".join(f"{message.get('role', '')}: {message['content']}" for message in said)
    parts = [_plain(row.get(key)) for key in (*_QUESTION, *_ANSWER)]
    return "\n".join(part for part in parts if part)


def _plain(value: Any) -> str:
    """Return a text, or the compact JSON of a value or of a text that is JSON."""
    if isinstance(value, str):
        if value.lstrip()[:1] in ("{", "["):
            try:
                return json.dumps(json.loads(value), ensure_ascii=False)
            except (ValueError, RecursionError):
                pass
        return value.strip()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) and value else ""


def _metadata_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the flags and the short texts of a row, its tools and whether it is a negative example."""
    kept = {
        key: value
        for key, value in row.items()
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 200)
    }
    found: dict[str, Any] = {key: v for key, v in kept.items() if key not in _ANSWER and v == v}
    call = _call_of(row)
    if call:
        found["tools"] = [c["name"] for c in call["tool_calls"]]
        found["call"] = json.dumps(call, ensure_ascii=False)
    negative = any(row.get(key) in (True, 1, "true") for key in NEGATIVE) or row.get("task_type") in NEGATIVE_TASKS
    return {**found, "is_negative": negative} if call or negative else found


def _call_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tool calls of a row's output, ``{"tool_calls": [{"name", "parameters"}]}``, or None."""
    value = next((row[key] for key in _ANSWER if key in row), row)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    calls = value.get("tool_calls") if isinstance(value, dict) else None
    if isinstance(calls, list) and calls and all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return {"tool_calls": calls}
    return None
