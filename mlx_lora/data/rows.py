"""Rows of anyone's JSONL, in the dialects people train on, each with its file and line; a bad line is not the end.

The dialects: ``{"messages"}`` (the dataset's own), ``{"instruction", "input", "output"}`` with or without
``metadata``, ``{"prompt", "completion"}`` and ``{"text"}``. Where :mod:`.example` refuses a file for its first bad
line, this reader goes on, so that all of them can be counted and named.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import lines
from .example import ROLES, Example, Span, parse_spans
from .lines import read_lines

# What in a row is the conversation and its weights; all the rest is meta.
_OWN_KEYS = {
    *("messages", "weight", "spans", "meta", "metadata"),
    *("system", "instruction", "input", "output", "prompt", "completion", "text"),
}
# The legacy format of a whole row as one text.
_INSTRUCTION, _INPUT, _RESPONSE = "### Instruction:", "### Input:", "### Response:"
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Row:
    """One line of a file.

    Attributes:
        file, line: where it stands, lines counted from 1.
        messages: the conversation; empty where ``error`` is set.
        meta: what else the row says: its ``meta`` or ``metadata``, and other keys at its top level.
        weight, spans: as in :class:`~mlx_lora.data.example.Example`.
        dialect: messages, instruction, completion or text.
        error: why this row cannot be used, without the place, or ``None``.
    """

    file: str
    line: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    spans: list[Span] = field(default_factory=list)
    dialect: str = "messages"
    error: str | None = None

    @property
    def where(self) -> str:
        """``FILE, line N``."""
        return f"{self.file}, line {self.line}"

    def example(self) -> Example:
        """The row in the dataset's own form."""
        return Example(self.messages, self.weight, self.meta, self.spans)


def read_rows(path: str | Path) -> Iterator[Row]:
    """Every non-empty line of a JSONL file; one that cannot be used has an ``error`` and no messages.

    An answer may be empty: that is for the checks to say.

    Raises:
        UserError: the file is missing, no regular file, or cannot be read.
    """
    name = str(path)
    for number, line in read_lines(path):
        row = _row(name, number, line)
        yield row
        if number == 1 and line.lstrip().startswith(b"[") and row.error:
            return  # one sentence for a list over many lines, not one for each of them


def _row(file: str, number: int, line: bytes) -> Row:
    if len(line) >= lines.LONGEST_LINE:
        return Row(file, number, error=f"the line is longer than {lines.LONGEST_LINE >> 20} MiB; split it")
    try:
        text = line.decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return Row(file, number, error=f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")
    except json.JSONDecodeError as error:
        if number == 1 and text.lstrip().startswith("["):
            return Row(file, number, error="the file is one JSON list, and JSONL has one object a line")
        return Row(file, number, error=f"this is not JSON ({error.msg}); correct or remove the line")
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of open brackets
        return Row(file, number, error="this is JSON that nobody can read; correct or remove the line")
    if isinstance(value, list) and number == 1:
        return Row(file, number, error="the file is one JSON list, and JSONL has one object a line")
    if not isinstance(value, dict):
        return Row(file, number, error=f"a row is an object, and this is {_kind(value)}")
    if "\\ud" in text.lower() and _HALF_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        return Row(
            file, number, error="it holds half of a surrogate pair, which is no text; correct or remove the line"
        )
    return _understood(Row(file, number), value)


def _understood(row: Row, value: dict[str, Any]) -> Row:
    """The row with what ``value`` says, in whichever dialect it says it."""
    given = value.get("meta", value.get("metadata"))
    row.meta = {k: v for k, v in value.items() if k not in _OWN_KEYS} | (given if isinstance(given, dict) else {})
    try:
        row.dialect, messages = _conversation(value)
        _check_messages(messages)
        weight = value.get("weight", 1.0)
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"the weight {str(weight)[:40]!r} must be a number of at least 0")
        if given is not None and not isinstance(given, dict):
            raise UserError("meta must be an object")
        row.spans = parse_spans(row.where, value.get("spans", []), messages)
    except (UserError, OverflowError) as error:
        row.error = str(error).removeprefix(f"{row.where}: ")
        return row
    row.messages, row.weight = messages, float(weight)
    return row


def _conversation(value: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """(dialect, messages) of a row, the messages not yet checked where they are the row's own."""
    if "messages" in value:
        if not isinstance(value["messages"], list) or not value["messages"]:
            raise UserError("messages must be a list of at least one message")
        return "messages", value["messages"]
    if "instruction" in value:
        user = [_text(value, "instruction"), _text(value, "input", optional=True)]
        return "instruction", _turns(value, "\n\n".join(part for part in user if part), _text(value, "output"))
    if "prompt" in value or "completion" in value:
        return "completion", _turns(value, _text(value, "prompt"), _text(value, "completion"))
    if "text" in value:
        return "text", _from_text(value, _text(value, "text"))
    raise UserError("a row has messages, instruction and output, prompt and completion, or text")


def _from_text(value: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """The turns of a text in the legacy format; of another text, all is the assistant's, as mlx-lm trains on it."""
    before, instructed, rest = text.partition(_INSTRUCTION)
    asked, answered, answer = rest.partition(_RESPONSE)
    if not instructed or not answered or "###" in before:
        return [{"role": "assistant", "content": text}]
    instruction, _, given = asked.partition(_INPUT)
    user = [instruction.strip(), given.strip()]
    return _turns(value, "\n\n".join(part for part in user if part), answer.strip())


def _turns(value: dict[str, Any], user: str, answer: str) -> list[dict[str, Any]]:
    system = _text(value, "system", optional=True)
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def _text(value: dict[str, Any], key: str, optional: bool = False) -> str:
    if key not in value and not optional:
        raise UserError(f"{key} is missing")
    content = value.get(key)
    if content is None and optional:
        return ""
    if not isinstance(content, str):
        raise UserError(f"{key} must be text, not {_kind(content)}")
    return content


def _check_messages(messages: list[Any]) -> None:
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise UserError(f"the role {str(role)[:40]!r} is unknown; use one of {', '.join(ROLES)}")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and role == "assistant" and message.get("tool_calls")):
            raise UserError(f"the {role} message has no text in content")
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError("there is no assistant message, so there is nothing to learn")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
