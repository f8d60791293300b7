"""Verbatim facts: a deterministic rule for answers that should be looked up instead of learned."""

from __future__ import annotations

import json
import re

# Share of the words an answer adds that must be facts.
THRESHOLD = 0.5
# A longer answer is more than a fact, and is learned; so is a block of more lines of code.
MOST_WORDS, MOST_CHARACTERS, MOST_CODE_LINES = 60, 1000, 3
# Facts of several words: quoted code, and dates such as "14 March 2025" and "March 14".
_SPAN = re.compile(
    r"```.{1,1000}?```|`[^`\n]{1,500}`|\b\d{1,2}\.? (?:MONTH)\b(?:,? \d{4})?|\b(?:MONTH) \d{1,2}\b(?:, \d{4})?".replace(
        "MONTH", "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
    ),
    re.S,
)
# A number, version, time or id with digits; a URL; an option; a dotted name or file; snake_case or camelCase; a path.
_FACT = re.compile(
    r"\d|\w://\w|^--?[a-z]|\w\.\w|\w_\w|[a-z][A-Z]|^[~.]{0,2}/\w|\w/[\w.-]+/\w",
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS = _words(
    """
    % °c °f b kb mb gb tb kib mib gib tib ms s min h hpa bar kg g km m cm mm eur usd v w a hz mhz ghz utc second
    seconds minute minutes hour hours day days week weeks month months year years byte bytes
    """
)
# A prompt that begins with one of these asks for work: a manner, whatever the answer holds.
_WORK = _words(
    """
    add analyse analyze build calculate check classify compute convert count create describe design edit explain
    extract fix format generate give implement improve list make read refactor rename rephrase replace review
    rewrite run solve sort suggest summarise summarize tell translate write
    """
)
_FUNCTION = _words(
    """
    a about after all also an and are as at be been before but by can do does down for from had has have her his if
    in is it its just more my no not of off on one only or our out over per set so than that the their them then
    there these they this to up was we were when where which while who will with would yes you your
    """
)
_PUNCTUATION = ".,;:!?()[]{}<>\"'`*“”‘’"
_FIELD = re.compile(r"[A-Za-z][\w ]{0,40}: ")
_CODE_LINE = re.compile(r"[{};]\s*$|^\s*(?:def|class|import|return|const|let)\s", re.M)


def is_verbatim(prompt: str, answer: str) -> bool:
    """Return True if an answer mostly is verbatim facts."""
    return fact_share(prompt, answer) >= THRESHOLD


def fact_share(prompt: str, answer: str) -> float:
    """Return the share of facts among the words that an answer adds to its prompt; 0 for work, and for long answers.

    Facts are numbers, dates, paths, URLs, versions, identifiers and quoted code. Function words, units, and words of
    the prompt are not counted.
    """
    if len(answer) > MOST_CHARACTERS or len(answer.split()) > MOST_WORDS or _is_form(answer):
        return 0.0
    asked = [word.strip(_PUNCTUATION).lower() for word in prompt.split()]
    if asked and asked[0] in _WORK:
        return 0.0
    quoted = sum(len(span.split()) for span in _SPAN.findall(answer))
    words = [word.strip(_PUNCTUATION) for word in _SPAN.sub(" ", answer).split()]
    ignored = _FUNCTION.union(_UNITS, asked)
    added = [word for word in words if re.search(r"\w", word) and word.lower() not in ignored]
    facts = quoted + sum(_FACT.search(word) is not None for word in added)
    counted = quoted + len(added)
    return facts / counted if counted else 0.0


def _is_form(answer: str) -> bool:
    """Return True for JSON, such as a tool call, lines of ``NAME: value``, and code: their form is what is learned."""
    text = answer.strip()
    if text[:1] in ("{", "["):
        try:
            return isinstance(json.loads(text), (dict, list))
        except (ValueError, RecursionError):
            return False
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(map(_FIELD.match, lines)):
        return True
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.S)
    return any(block.count("\n") > MOST_CODE_LINES for block in blocks) or (
        len(_CODE_LINE.findall(text)) > MOST_CODE_LINES
    )
