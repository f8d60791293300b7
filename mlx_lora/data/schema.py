"""Example schema: messages, weights, spans and tools, with the validation that every reader shares."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UserError, shortened

SPLITS = ("train", "valid", "test")
ROLES = ("system", "user", "assistant", "tool")
# Weights are float32 in a batch, and their sums must be finite.
MOST_WEIGHT = 1e6
# Deeper nesting exceeds Python's own recursion limit somewhere on the way.
MOST_DEPTH = 100


@dataclass
class Span:
    """A part of an answer whose tokens' loss is multiplied by ``weight``.

    Attributes:
        message: index into the example's messages.
        start, end: characters of that message's content, the end excluded.
    """

    message: int
    start: int
    end: int
    weight: float


@dataclass
class Example:
    """A training example: a conversation.

    Attributes:
        weight: multiplies the example's loss.
        meta: carried along untouched.
        spans: parts of the answers that count more or less than the rest.
        tools: JSON schemas of the functions the model may call (OpenAI's ``tools``), given to the chat template.
        template_kwargs: further variables of the chat template (``chat_template_kwargs`` in a row).

    A message may have a ``weight``: a number that its tokens' loss is multiplied by; 0 makes an answer context only.
    ``open_end: true`` marks an answer that stops before its end: its end-of-turn token is not supervised.
    """

    messages: list[dict[str, Any]]
    weight: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the dataset's JSON object; optional keys only where they are not empty."""
        row = asdict(self)
        row["chat_template_kwargs"] = row.pop("template_kwargs")
        return {k: v for k, v in row.items() if v or k not in ("spans", "tools", "chat_template_kwargs")}


def is_number(value: Any) -> bool:
    """Return True if a JSON value is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def is_text(value: str) -> bool:
    """Return True if a text can be written as UTF-8, which an unpaired surrogate in JSON cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_weight(value: Any, what: str = "the weight") -> float:
    """Return a weight from 0 to ``MOST_WEIGHT``.

    Raises:
        UserError: it is another value.
    """
    if not is_number(value) or not 0 <= value <= MOST_WEIGHT:
        raise UserError(f"{what} {shortened(value, 40)} must be a number from 0 to {MOST_WEIGHT:g}; correct it")
    return float(value)


def parse_spans(rows: Any, messages: list[dict[str, Any]], shift: int = 0) -> list[Span]:
    """Return the spans of a row.

    Args:
        shift: messages that were put before the row's own ones, by which the spans count.

    Raises:
        UserError: one is not within an assistant's message, or its weight is not above 0 and at most 10⁶.
    """
    try:
        spans = [Span(**row) for row in rows]
        for span in spans:
            if span.message < 0:
                raise ValueError
            span.message += shift
            message = messages[span.message]
            inside = 0 <= span.start < span.end <= len(message["content"])
            if message["role"] != "assistant" or not inside or not is_number(span.weight):
                raise ValueError
            if not 0 < span.weight <= MOST_WEIGHT:
                raise ValueError
    except (TypeError, ValueError, IndexError):
        raise UserError(
            'a span is {"message", "start", "end", "weight"} within an assistant message, its weight above 0; '
            "correct or remove it"
        ) from None
    return spans


def check_depth(value: Any) -> None:
    """Raise UserError if a JSON value is nested deeper than ``MOST_DEPTH``."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [item for items in inner for item in items]
        if not level:
            return
    raise UserError(f"it is nested deeper than {MOST_DEPTH} levels; correct or remove the row")


def check_writable(value: Any) -> None:
    """Raise UserError if a value cannot be written as JSON in UTF-8."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise UserError("it holds a number that is not finite; correct or remove the row") from None
    if not is_text(text):
        raise UserError("it holds an unpaired surrogate, which is not text; correct or remove the row")


def kind_of(value: Any) -> str:
    """Return the name of a JSON value's type, with its article."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
