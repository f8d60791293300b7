"""Answers with nothing in them, and answers that stop in the middle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .base import Hit
from .conflicts import brief
from .dataset_table import Table

# Characters below which an answer says next to nothing.
SHORT = 10
# Fewer words are a label or a title, which ends as it likes.
PROSE_WORDS = 8
_SENTENCE_END = re.compile(r"[a-zà-ÿ)\"'’”][.!?][\"'’”)]?\s+\S")
# Items of lists, and labelled lines such as "RELATION: c2 supports c1", end as they like.
_LIST_ITEM = re.compile(r"\s*(?:[-*•–+#|>]|\d+[.)]|[a-z][.)]\s|[A-Z][A-Z_]+(?:\[\w+\])?:)")


def empty(table: Table) -> Iterator[Hit]:
    """Rows with an answer that is nothing but white space, the last one or an earlier one; training refuses them."""
    for item in table.items:
        if item.row.refusal:
            yield Hit(item.row.refusal, [item])


def short(table: Table) -> Iterator[Hit]:
    """Training rows whose answer has fewer than ten characters."""
    for item in table.trained:
        if 0 < len(item.answer.strip()) < SHORT:
            yield Hit(f"{item.where}: the answer is only {brief(item.answer.strip())}")


def cut(table: Table) -> Iterator[Hit]:
    """Training rows whose answer seems to stop before its end; a guess, so ``--fix`` keeps them."""
    for item in table.trained:
        last = [message for message in item.row.messages if message["role"] == "assistant"][-1]
        # What an open end was cut from is known, and its end is not learned.
        if not last.get("open_end") and (reason := looks_cut(item.answer)):
            yield Hit(f"{item.where}: {reason}, …{brief(item.answer.strip()[-40:])}")


def looks_cut(answer: str) -> str | None:
    """Why an answer seems cut: an open fence, thought or JSON, or prose whose last sentence does not end."""
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
    """True if a text that begins as JSON is so as far as it goes, and then ends."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # Unterminated strings are reported where they begin.
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    return False
