"""Full-text words: those of a question as an expression of FTS5, and those inside the identifiers of source code."""

from __future__ import annotations

import re
from typing import Protocol

# The rarest words of a question decide. Each chunk that holds a word costs time (0.7 µs), so that a word is left out
# where this many chunks hold it and the rarer ones together.
MOST_WORDS, MOST_MATCHES = 12, 10_000
# Said by every question.
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can could did do does for from had has have how i if in into is it its "
        "me my no not of on or our please she should so some that the their them then there these they this "
        "to was we were what when where which who why will with would you your ",
    )
)

# Parts of an identifier: HTTPServer2Loader is HTTP, Server2 and Loader.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[0-9]+")


class Words(Protocol):
    """Counts of the words in a full-text index."""

    def document_count(self, word: str) -> int:
        """Return the number of chunks that hold a word."""
        ...


def expression_of(query: str, words: Words) -> str:
    """Return an FTS5 expression that matches any of a question's rarest words; "" if it has none in the index."""
    found = list(dict.fromkeys(re.findall(r"[^\W_]+", f"{query} {words_of(query)}".lower())))[:200]
    said = [word for word in found if word not in _STOP_WORDS] or found
    counts = {word: words.document_count(word) for word in said}
    # FTS5 itself takes away diacritics, so a word that it seems not to know may match.
    known = [word for word in counts if counts[word] or not word.isascii()]
    chosen: list[str] = []
    matches = 0
    for word in sorted(known, key=lambda word: (counts[word], word))[:MOST_WORDS]:
        matches += counts[word]
        if chosen and matches > MOST_MATCHES:
            break
        chosen.append(word)
    return " OR ".join(f'"{word}"' for word in chosen)


def words_of(text: str) -> str:
    """Return the words of a text's identifiers, such as "ws server" of ``WsServer``."""
    names = dict.fromkeys(re.findall(r"\b[A-Za-z]\w*[a-z0-9][A-Z]\w*", text))
    return " ".join(dict.fromkeys(word.lower() for name in names for word in _PART.findall(name)))
