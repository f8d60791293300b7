"""Signs that a model has collapsed: repeated phrases, questions for answers, stock phrases for thoughts.

The thresholds were set on 180 real experiences of which a person had removed 24; they find all 24, and 14 more that
say the same or nearly the same as those.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .similar import words_of

# Words in phrases that occur twice or more within one answer; real answers stay below a tenth.
REPEATED_WORDS, REPEATED_SHARE = 4, 0.3
# An answer of a few words that only asks; and one of which most sentences ask.
BARE_QUESTION_WORDS = 12
FLOOD = 5
# Phrases of so many words that several answers around the same time share, and the share of an answer they make.
STOCK_WORDS, STOCK_ANSWERS, STOCK_ANSWERS_SHARE, STOCK_SHARE = 3, 3, 0.015, 0.3
# Between two collapsed answers, this much is enough.
STOCK_SHARE_BETWEEN = 0.1
# Answers compared with one another: what an agent says over years is not what it said that week.
BLOCK = 200
# More answers than this share their phrases: then that is how the agent talks, and says nothing of a collapse.
USUAL = 0.5

Gram = tuple[str, ...]


def asks_only(text: str) -> bool:
    """A few words, and all sentences are questions."""
    if not text.rstrip().endswith("?") or len(words_of(text)) > BARE_QUESTION_WORDS:
        return False
    return all(sentence.endswith("?") for sentence in _sentences(text))


def floods_with_questions(text: str) -> bool:
    """Many questions, and more of them than other sentences."""
    if text.count("?") < FLOOD:
        return False
    sentences = _sentences(text)
    questions = sum(sentence.endswith("?") for sentence in sentences)
    return questions >= FLOOD and 2 * questions > len(sentences)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if part]


def repeats_itself(text: str) -> bool:
    """A good part of the answer is phrases that it says more than once."""
    grams = _grams(words_of(text), REPEATED_WORDS)
    if len(set(grams)) == len(grams):
        return False
    repeated = {gram for gram, count in Counter(grams).items() if count > 1}
    return _covered(grams, repeated, REPEATED_WORDS) >= REPEATED_SHARE


def _grams(words: Sequence[str], length: int) -> list[Gram]:
    return list(zip(*(words[i:] for i in range(length)), strict=False))


def _covered(grams: Sequence[Gram], chosen: set[Gram], length: int) -> float:
    """The share of a text's words that stand in one of the chosen phrases."""
    if chosen.isdisjoint(grams):
        return 0.0
    covered, end = 0, 0
    for start, gram in enumerate(grams):
        if gram in chosen:
            covered += start + length - max(start, end)
            end = start + length
    return covered / (len(grams) + length - 1)


def stock_shares(responses: Sequence[str]) -> list[float]:
    """For each response, in order of time, the share of its words in phrases that others around it use too."""
    shares: list[float] = []
    blocks = max(1, len(responses) // BLOCK)
    for number in range(blocks):
        end = len(responses) if number == blocks - 1 else (number + 1) * BLOCK
        shares += _stock_shares_of_block(responses[number * BLOCK : end])
    return shares


def _stock_shares_of_block(responses: Sequence[str]) -> list[float]:
    grams = {text: _grams(words_of(text), STOCK_WORDS) for text in responses}
    counts: Counter[Gram] = Counter()
    for of_text in grams.values():
        counts.update(set(of_text))
    enough = max(STOCK_ANSWERS, STOCK_ANSWERS_SHARE * len(grams))
    stock = {gram for gram, count in counts.items() if count >= enough}
    shares = {text: _covered(of_text, stock, STOCK_WORDS) for text, of_text in grams.items()}
    return [shares[text] for text in responses]


def made_of_stock_phrases(responses: Sequence[str]) -> tuple[list[bool], float]:
    """For each response, in order of time, whether it is made of stock phrases; and the share that are.

    Where that is more than half of all, none is marked: then it is the agent's usual manner. One that stands between
    two collapsed ones, and has some stock phrases of its own, goes with them.
    """
    shares = stock_shares(responses)
    marked = [share >= STOCK_SHARE for share in shares]
    usual = sum(marked) / max(1, len(marked))
    if usual > USUAL:
        return [False] * len(responses), usual
    collapsed = [mark or asks_only(text) for mark, text in zip(marked, responses, strict=True)]
    for i in range(1, len(responses) - 1):
        between = collapsed[i - 1] and collapsed[i + 1] and shares[i] >= STOCK_SHARE_BETWEEN
        marked[i] = marked[i] or between
    return marked, usual
