"""Rows that are looked up instead of learned: the decision on each new row, and its document in the index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...data.dataset import Example
from ...retrieval.governance import Governance, find_secret, governance_of, redact
from ..config import IndexConfig
from .reading import LeftOut, Row, add_name, question_of, row_name
from .verbatim import fact_share, is_verbatim

MARKED = "its owner marked it verbatim"
NOT_LEARNED = "its owner forbids training on it (ok_to_train)"
PERSONAL = "it holds an e-mail address, which is redacted in the index and not learned"
LIKELY = "its answer mostly is verbatim facts"
REFUSED = "the index refuses it, and it is not learned"
FORBIDDEN = "it must not be learned, and cannot be looked up (ok_to_train, ok_to_retrieve)"


@dataclass
class Decided:
    """Decisions on the new rows of a night.

    Attributes:
        learn: rows to curate and learn.
        look_up: rows for the index.
        indexed: names of ``look_up`` by store and reason.
        left_out: rows that may be neither learned nor looked up.
        refused: ids of the rows that the index refuses.
    """

    learn: list[Row] = field(default_factory=list)
    look_up: list[Row] = field(default_factory=list)
    indexed: list[LeftOut] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def decide(rows: Iterable[Row], index: IndexConfig | None) -> Decided:
    """Decide for each row if it is learned or looked up; the same rows get the same decisions.

    Without an index nothing is looked up, and what must not be trained on is left out.
    """
    decided = Decided()
    for row in rows:
        governance = governance_of(row.example.meta)
        why = None
        if index is not None:
            text = text_of(row.example)
            redacted, personal = redact(text)
            # The index looks at the text without addresses.
            if secret := find_secret(text) or (find_secret(redacted) if personal else None):
                # The question may hold the secret, and is not quoted.
                add_name(decided.left_out, row.store, REFUSED, f"{row.id}: {secret[1]}")
                decided.refused.append(row.id)
                continue
            why = _reason(row, personal, governance, index)
        if why is not None and governance.ok_to_retrieve:
            name = row_name(row.id, row.example)
            if why == LIKELY:
                name += f" ({fact_share(question_of(row.example), _answer_of(row.example)):.0%} of its words)"
            add_name(decided.indexed, row.store, why, redact(name)[0])
            decided.look_up.append(row)
        elif not governance.ok_to_train or (why is not None and why != LIKELY):
            add_name(decided.left_out, row.store, FORBIDDEN, redact(row_name(row.id, row.example))[0])
        else:
            decided.learn.append(row)
    return decided


def _reason(row: Row, personal: bool, governance: Governance, index: IndexConfig) -> str | None:
    """Return the reason that a row is to be looked up, None if it is to be learned."""
    if str(row.example.meta.get("verbatim")).lower() in ("true", "yes", "1"):
        return MARKED
    if not governance.ok_to_train:
        return NOT_LEARNED
    if personal:
        return PERSONAL
    if index.facts == "likely" and is_verbatim(question_of(row.example), _answer_of(row.example)):
        return LIKELY
    return None


def text_of(example: Example) -> str:
    """Return the text of a row's document: the prompt without the system prompt, then the answer."""
    return f"{question_of(example)}\n\n{_answer_of(example)}".replace("\0", "").strip()


def _answer_of(example: Example) -> str:
    answer: Mapping[str, Any] = next(m for m in reversed(example.messages) if m["role"] == "assistant")
    content = answer.get("content")
    if isinstance(content, str) and content.strip():
        return content
    return json.dumps(answer["tool_calls"], ensure_ascii=False) if answer.get("tool_calls") else ""
