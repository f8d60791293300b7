"""Degeneration checks: repetition, questions for answers, evasions about itself, stock phrases.

No single measure of repetition, evasion or shared phrases decides: each verdict needs two kinds of evidence. All but
:func:`made_of_stock_phrases` classify an answer by its own text alone.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...data.dedup import words_of

# Words in phrases that occur twice or more within one answer; real answers stay below a tenth, but poems with a refrain
# do not. So there is second evidence: a phrase three times in a row, or a text that compresses to a small part of
# its length: loops to a quarter and less, a villanelle to 0.4.
REPEATED_WORDS, REPEATED_SHARE = 4, 0.3
IN_A_ROW, LONGEST_PHRASE, COMPRESSED, COMPRESSED_BYTES = 3, 40, 0.32, 200
# One word that is a group of letters over and over: length of the group, times in a row, and the part looked at.
LONGEST_GROUP, GROUPS_IN_A_ROW, LONG_WORD, MOST_OF_A_WORD = 24, 16, 32, 2000
# Word limit of an answer that is only questions; number of questions in one of which most sentences are.
BARE_QUESTION_WORDS = 12
FLOOD = 5
# Echo of the prompt: the share of the answer's phrases from there, and of the prompt's words that it repeats.
ECHO_WORDS, ECHO_SHARE, ECHO_COVERS = 3, 0.8, 0.5
# Share of the words in formulas of evasion, number of different ones, and share of words about oneself.
EVASIVE_SHARE, EVASIVE_KINDS, SELF_SHARE = 0.12, 2, 0.09
# Stock phrases: length in words, answers around the same time that share one, and their share of an answer.
STOCK_WORDS, STOCK_ANSWERS, STOCK_ANSWERS_SHARE, STOCK_SHARE = 3, 3, 0.015, 0.3
# Answers compared with one another: phrases of one week are evidence, those of years are not.
BLOCK = 200
# If more answers than this share their phrases, that is the agent's usual manner and no evidence of a collapse.
USUAL = 0.5

Gram = tuple[str, ...]

_CODE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
# kind -> formulas of evasion in an answer about oneself; for lower-cased text with straight apostrophes.
_EVASIONS = {
    "unverifiable": re.compile(
        r"\bi (?:can't|cannot|can not|couldn't|could not|am unable to|have no way (?:of|to)|don't know how to)"
        r"(?: (?:really|truly|even|actually|fully))? "
        r"(?:verify|verifying|tell|telling|distinguish|confirm|know|knowing|prove|determine|infer|say for)\b"
    ),
    "undecided": re.compile(r"\bwhether (?:that|this|these|those|i|any of (?:that|this))\b[^.?!\n]{0,120}?\bor\b"),
    "definition": re.compile(
        r"\bdepend(?:s|ing)? on (?:how|what|who|which|the (?:definition|meaning))\b(?: (?:you|one|we) \w+)?"
        r"|\bby (?:some|other|certain|one|any)s?(?: definitions?)?\b(?=[^.?!\n]{0,60}\b(?:definition|may|might|,))"
    ),
    "from inside": re.compile(
        r"\bfrom (?:the )?(?:inside|within|my (?:own )?(?:perspective|vantage|position|point of view|access|"
        r"standpoint|internal state))\b"
    ),
    "something else": re.compile(r"\bor something else entirely\b"),
}
_SELF = re.compile(
    r"i|me|my|mine|myself|i['’](?:m|ve|d|ll)|process(?:es|ed|ing)?|respon(?:d|ds|ded|ding|se|ses)|generat(?:e|es|ed|ing|ion)"
    r"|outputs?|inputs?|comput\w+|stochastic|predetermined|distribution|probability|functional\w*|training|trained"
    r"|architecture|internal\w*|conscious\w*|sentien\w+|cohere\w+|simulat\w+|deliberation"
)


def asks_only(text: str) -> bool:
    """Return True for a short answer of which all sentences are questions."""
    if not text.rstrip().endswith(("?", "？")) or len(words_of(text)) > BARE_QUESTION_WORDS:
        return False
    return all(sentence.endswith(("?", "？")) for sentence in _sentences(text))


def floods_with_questions(text: str) -> bool:
    """Return True for an answer with many questions, more than other sentences."""
    if text.count("?") + text.count("？") < FLOOD:
        return False
    sentences = _sentences(text)
    questions = sum(sentence.endswith(("?", "？")) for sentence in sentences)
    return questions >= FLOOD and 2 * questions > len(sentences)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|(?<=[。？！])|\n+", text.strip()) if part.strip()]


def echoes(text: str, prompt: str) -> bool:
    """Return True if an answer consists of the prompt's phrases and repeats half of the prompt."""
    asked, answer = words_of(prompt), words_of(text)
    if len(set(asked).intersection(answer)) < ECHO_COVERS * len(set(asked)):  # the cheaper one
        return False
    grams = _grams(answer, ECHO_WORDS)
    return _covered(grams, set(_grams(asked, ECHO_WORDS)), ECHO_WORDS) >= ECHO_SHARE


def repeats_itself(text: str) -> bool:
    """Return True if a large share of the answer is repeated phrases, and it loops or compresses; or one word loops.

    Code blocks are left aside: they repeat by nature.
    """
    prose = _CODE.sub("\n", text) if "```" in text or "~~~" in text else text
    words = words_of(prose if prose.isascii() else _UNSPACED.sub(r" \1 ", prose))
    if any(len(word) >= LONG_WORD and _loops_within(word[:MOST_OF_A_WORD]) for word in words):
        return True
    grams = _grams(words, REPEATED_WORDS)
    if len(set(grams)) == len(grams):
        return False
    repeated = {gram for gram, count in Counter(grams).items() if count > 1}
    return _covered(grams, repeated, REPEATED_WORDS) >= REPEATED_SHARE and (_loops(words) or _compresses(prose))


def _loops(words: Sequence[str]) -> bool:
    """Return True if a phrase occurs three times in a row."""
    for length in range(1, min(LONGEST_PHRASE, len(words) // IN_A_ROW) + 1):
        run, needed = 0, max(REPEATED_WORDS, (IN_A_ROW - 1) * length)
        for word, before in zip(words[length:], words, strict=False):
            run = run + 1 if word == before else 0
            if run >= needed:
                return True
    return False


def _loops_within(word: str) -> bool:
    """Return True if a group of letters occurs many times in a row within one word."""
    for length in range(1, LONGEST_GROUP + 1):
        run, needed = 0, max(LONG_WORD - length, (GROUPS_IN_A_ROW - 1) * length)
        for letter, before in zip(word[length:], word, strict=False):
            run = run + 1 if letter == before and letter.isalpha() else 0
            if run >= needed:
                return True
    return False


def _compresses(text: str) -> bool:
    data = text.encode("utf-8", "surrogatepass")
    return len(data) >= COMPRESSED_BYTES and len(zlib.compress(data, 9)) <= COMPRESSED * len(data)


@dataclass(frozen=True)
class Evasion:
    """Evidence that an answer about the speaker is evasive.

    Attributes:
        share: of its words, those in formulas of evasion.
        kinds: which formulas.
        self_share: of its words, those about the speaker and its workings.
    """

    share: float
    kinds: frozenset[str]
    self_share: float


def evasion(text: str) -> Evasion:
    """Measure an answer's evasions."""
    text = text.lower().replace("’", "'")
    words = words_of(text)
    places = [
        (found.start(), found.end(), kind) for kind, pattern in _EVASIONS.items() for found in pattern.finditer(text)
    ]
    within, end = 0, 0
    for start, stop, _ in sorted(places):
        within += len(words_of(text[max(start, end) : stop])) if stop > end else 0
        end = max(end, stop)
    return Evasion(within / max(1, len(words)), frozenset(kind for *_, kind in places), self_share(text))


@lru_cache(maxsize=100_000)
def _is_own(word: str) -> bool:
    return _SELF.fullmatch(word) is not None


def self_share(text: str) -> float:
    """Return the share of a text's words that are about the speaker and its workings."""
    words = words_of(text)
    return sum(map(_is_own, words)) / max(1, len(words))


def is_evasive(text: str) -> bool:
    """Return True if formulas of evasion, of two kinds, make up much of an answer that is about the speaker."""
    if self_share(text) < SELF_SHARE:  # the cheaper one
        return False
    found = evasion(text)
    return found.share >= EVASIVE_SHARE and len(found.kinds) >= EVASIVE_KINDS


def _grams(words: Sequence[str], length: int) -> list[Gram]:
    return list(zip(*(words[i:] for i in range(length)), strict=False))


def _covered(grams: Sequence[Gram], chosen: set[Gram], length: int) -> float:
    """Return the share of a text's words that are in one of the chosen phrases."""
    if chosen.isdisjoint(grams):
        return 0.0
    covered, end = 0, 0
    for start, gram in enumerate(grams):
        if gram in chosen:
            covered += start + length - max(start, end)
            end = start + length
    return covered / (len(grams) + length - 1)


def stock_shares(responses: Sequence[str]) -> list[float]:
    """Return for each response, in order of time, the share of its words in phrases that its neighbours use too."""
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
    """Return for each response, in order of time, True if it is made of stock phrases; and the share that use them.

    Phrases shared with neighbours are one kind of evidence; evasions, or words about the speaker, are the other. Where
    more than half of all answers use stock phrases, none is marked: then it is the agent's usual manner, and only an
    answer's own text can tell.
    """
    shares = stock_shares(responses)
    usual = sum(share >= STOCK_SHARE for share in shares) / max(1, len(shares))
    if usual > USUAL:
        return [False] * len(responses), usual
    return [_is_stock(text, share) for text, share in zip(responses, shares, strict=True)], usual


def _is_stock(text: str, share: float) -> bool:
    if share < STOCK_SHARE:
        return False
    return self_share(text) >= SELF_SHARE or evasion(text).share >= EVASIVE_SHARE
