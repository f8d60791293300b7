"""Checks of answers: empty, very short, or truncated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .base import Hit
from .conflicts import brief
from .dataset_table import Table

# Minimum length of an answer in characters.
SHORT = 10
# Texts with fewer words are labels or titles, which need no final punctuation.
PROSE_WORDS = 8
_SENTENCE_END = re.compile(r"[a-zà-ÿ)\"'’”][.!?][\"'’”)]?\s+\S")
# List items, and labelled lines such as "RELATION: c2 supports c1", need no final punctuation.
_LIST_ITEM = re.compile(r"\s*(?:[-*•–+#|>]|\d+[.)]|[a-z][.)]\s|[A-Z][A-Z_]+(?:\[\w+\])?:)")


def empty(table: Table) -> Iterator[Hit]:
    """Yield rows with an answer that is only white space, the last one or an earlier one; training refuses them."""
    for item in table.items:
        if item.row.refusal:
            yield Hit(item.row.refusal, [item])


def short(table: Table) -> Iterator[Hit]:
    """Yield training rows whose answer has fewer than ten characters."""
    for item in table.trained:
        if 0 < len(item.answer.strip()) < SHORT:
            yield Hit(f"{item.where}: the answer is only {brief(item.answer.strip())}")


def truncated(table: Table) -> Iterator[Hit]:
    """Yield training rows whose answer looks truncated; a guess, so ``--fix`` keeps them."""
    for item in table.trained:
        last = [message for message in item.row.messages if message["role"] == "assistant"][-1]
        # An open end is marked as truncated, and its end is not supervised.
        if not last.get("open_end") and (reason := looks_cut(item.answer)):
            yield Hit(f"{item.where}: {reason}, …{brief(item.answer.strip()[-40:])}")


def looks_cut(answer: str) -> str | None:
    """Return why an answer looks truncated: an open fence, thought or JSON, or an unfinished last sentence."""
    text = answer.strip()
    if text.count("```") % 2:
        return "a code fence is left open"
    if text.count("<think>") > text.count("</think>"):
        return "a <think> block is left open"
    if text[:1] in ("{", "["):
        return "its JSON does not end" if _open_json(text) else None
    last_line = text.rsplit("\n", 1)[-1]
    prose = len(text.split()) >= PROSE_WORDS and _SENTENCE_END.search(text)
    if prose and not _LIST_ITEM.match(last_line) and (text[-1].isalnum() or text[-1] in ",;-–—("):
        return "its last sentence does not end"
    return None


def _open_json(text: str) -> bool:
    """Return True if a text that starts as JSON is valid up to its end, but incomplete."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # Unterminated strings are reported where they begin.
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    return False
