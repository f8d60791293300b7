"""Word differences of two answers, for display side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

# (differs from the other answer, text); the texts of all pieces together are the answer.
Piece = tuple[bool, str]

# Pairs of equal words above which a matcher takes seconds: a loop of one word, twice, has a pair for each two places.
MOST_PAIRS = 200_000
# A word with the space before it, so that what is added at the end leaves the word before it alone.
_WORDS = re.compile(r"\s*\S+|\s+")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


def word_diff(a: str, b: str) -> tuple[list[Piece], list[Piece]]:
    """Return both answers in pieces, those that the other one lacks marked.

    Answers whose words repeat too often are compared by lines, else as a whole between their common start and end.
    """
    found: tuple[list[Piece], list[Piece]] = ([], [])
    for equal, left, right in _parts(a, b):
        for pieces, text in zip(found, (left, right), strict=True):
            space = 0 if equal or text.isspace() else len(text) - len(text.lstrip())
            pieces += [piece for piece in ((False, text[:space]), (not equal, text[space:])) if piece[1]]
    return found


def _parts(a: str, b: str) -> list[tuple[bool, str, str]]:
    """Return (equal, part of A, part of B) in order."""
    words_a, words_b = _WORDS.findall(a), _WORDS.findall(b)
    start = _common(words_a, words_b)
    end = _common(words_a[start:][::-1], words_b[start:][::-1])
    head, tail = "".join(words_a[:start]), "".join(words_a[len(words_a) - end :])
    middle_a, middle_b = words_a[start : len(words_a) - end], words_b[start : len(words_b) - end]
    if _pairs(middle_a, middle_b) <= MOST_PAIRS:
        middle = _match(middle_a, middle_b)
    else:
        text_a, text_b = "".join(middle_a), "".join(middle_b)
        lines_a, lines_b = _LINES.findall(text_a), _LINES.findall(text_b)
        few = _pairs(lines_a, lines_b) <= MOST_PAIRS
        middle = _match(lines_a, lines_b) if few else [(False, text_a, text_b)]
    return [(True, head, head), *middle, (True, tail, tail)]


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _pairs(a: Sequence[str], b: Sequence[str]) -> int:
    counts = Counter(b)
    return sum(number * counts[word] for word, number in Counter(a).items())


def _match(a: Sequence[str], b: Sequence[str]) -> list[tuple[bool, str, str]]:
    codes = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [(tag == "equal", "".join(a[i:j]), "".join(b[k:m])) for tag, i, j, k, m in codes]
