"""Evaluation case: a conversation to answer, and the reference that a suite's checks read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Case:
    """Case of a suite.

    Attributes:
        id: unique in its suite.
        messages: conversation to answer; the last message is the user's.
        expect: reference as the suite's checks read it: text, list of texts, or an object.
        tags: the first one is the class of ``balanced``.
        meta: further data of the case file's line.
    """

    id: str
    messages: list[dict[str, Any]]
    expect: Any = None
    tags: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
