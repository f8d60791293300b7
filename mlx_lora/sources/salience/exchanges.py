"""Exchanges from outside: parsed from JSON, and added to a buffer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.schema import is_text
from ...errors import UserError
from .collector import ExperienceCollector

EXCHANGE: dict[str, type] = {
    "prompt": str,
    "response": str,
    "session": int,
    "phase": str,
    "metadata": dict,
    "tool_calls": list,
}
KINDS = {str: "text", int: "a whole number", dict: "an object", list: "a list"}


def parse_exchanges(content: bytes) -> list[dict[str, Any]]:
    """Return the exchanges on standard input: one JSON object, or one a line.

    Raises:
        UserError: it is empty, not UTF-8, not JSON, or an object is not an exchange; the message names the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text ({error.reason}); convert it") from None
    try:
        # One object over several lines, or one a line.
        whole = json.loads(text)
        return [_exchange(whole, "standard input")]
    except (ValueError, RecursionError):
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError('standard input is empty; write {"prompt": ..., "response": ...} to it')
    return [
        _exchange(parse_object(line, f"standard input, line {n}"), f"standard input, line {n}") for n, line in lines
    ]


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a text, or raise UserError naming ``where``."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too large or too deep"
        raise UserError(f"{where}: this is not JSON ({reason}); correct it") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: this is no JSON object; write {{...}}")
    return value


def _exchange(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f'{where}: this is no JSON object; write {{"prompt": ..., "response": ...}}')
    for key, content in value.items():
        if key not in EXCHANGE:
            raise UserError(f"{where}: the key {key!r} is unknown; use {', '.join(EXCHANGE)}")
        if content is not None and (not isinstance(content, EXCHANGE[key]) or isinstance(content, bool)):
            raise UserError(f"{where}: {key} must be {KINDS[EXCHANGE[key]]}")
    for call in value.get("tool_calls") or ():
        if not isinstance(call, dict) or not isinstance(call.get("name", ""), str):
            raise UserError(f"{where}: each of tool_calls must be an object with name (text) and success")
    if not is_text(json.dumps(value, ensure_ascii=False)):
        raise UserError(f"{where}: it holds half of a character (a lone surrogate), which no file can; correct it")
    return {key: content for key, content in value.items() if content is not None}


def add_exchanges(buffer: Path, exchanges: Sequence[dict[str, Any]], threshold: float = 0.5) -> list[dict[str, Any]]:
    """Add exchanges to a buffer, and return the result of ``ExperienceCollector.add_exchange`` for each.

    Raises:
        UserError: an exchange lacks a text, before any is added; or see ``ExperienceCollector``.
    """
    if any("prompt" not in exchange or "response" not in exchange for exchange in exchanges):
        raise UserError("an exchange has a prompt and a response; give both, or - to read them as JSON")
    collector = ExperienceCollector(buffer, threshold, remember=True)
    return [
        collector.add_exchange(**{"session_number" if key == "session" else key: value for key, value in row.items()})
        for row in exchanges
    ]
