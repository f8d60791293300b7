"""Truncated answers: detection, and trimming to the last complete sentence.

A token limit truncates an answer anywhere. Trimming keeps whole sentences, list items, table rows and code blocks, and
never ends within quotation marks, brackets, emphasis or a code block.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from ...data.dedup import words_of

# An answer of at most this many words may be complete without a full stop.
WHOLE_WITHOUT_STOP = 7

_SIGNATURE = re.compile(r"\n\s*(?:[–—~]|--)\s*\w+(?: \w+){0,2}$")
_CLOSING = "\"'”’»*_`)]}」』）】》~ \t"
_FULL_WIDTH = "。！？．｡।۔؟"
_STOP = re.compile(rf"(?:[.!?…]+|[{_FULL_WIDTH}]+)[{re.escape(_CLOSING.rstrip())}]*")
_OPENING = " \t\"'“‘„«»([{*_`"
_BRACKETS = (("(", ")"), ("[", "]"), ("（", "）"), ("「", "」"), ("『", "』"), ("【", "】"))
# Quotation marks of a language open and close in either order, so that an odd number of them is an open one.
_PAIRED = (re.compile('"'), re.compile("[“”„]"), re.compile("[«»]"), re.compile(r"\*\*"), re.compile("`"))
_STAR = re.compile(r"(?<!\*)\*(?!\*)")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_HEADING = re.compile(r"\s*#{1,6}\s")
_ITEM = re.compile(r"\s*(?:>\s*)*(?:[-+*•]|\d+[.)]|[A-Za-z][.)])\s+")
_BARE_MARKER = re.compile(r"\s*(?:>\s*)*(?:[-+*•]|(?P<number>\d+)[.)]?|[A-Za-z][.)])[\s*_]*$")
# Abbreviations, without the last stop: their full stop does not end a sentence.
_ABBREVIATIONS = {
    *("dr", "mr", "mrs", "ms", "mx", "prof", "st", "rev", "hon", "gov", "sen", "capt", "lt", "sgt"),
    *("e.g", "i.e", "eg", "ie", "cf", "vs", "viz", "approx", "resp", "fig", "eq", "vol", "pp", "al", "ca"),
    *("bzw", "z.b", "d.h", "u.a"),
}
_LAST_TOKEN = re.compile(r"[^\s(\[\"'“‘„«*_]*$")
# Two characters of a script that is written without spaces count as a word.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# Thai and Lao are written without full stops.
_NO_STOPS = re.compile(r"[\u0e00-\u0eff]")


def word_count(text: str) -> int:
    """Return the number of words; two characters of Chinese or Japanese count as one."""
    unspaced = 0 if text.isascii() else len(_UNSPACED.findall(text))
    return -(-unspaced // 2) + len(words_of(_UNSPACED.sub(" ", text) if unspaced else text))


def is_cut(text: str) -> bool:
    """Return True if an answer ends in the middle of a sentence, of emphasis or of a code block.

    A complete end is a full stop or similar, an emoji or a closed code block; short answers need none, and neither
    does a signature. A last list item that is not a sentence counts as truncated: the two look the same.
    """
    text = text.rstrip()
    if text.count("```") % 2:
        return True
    if text.endswith("```"):
        return False
    bare = text.rstrip(_CLOSING)
    if not bare or bare[-1] in ",;:-–—(" or _ends_with_marker(text):
        return bool(bare)
    if bare[-1] == ".":
        return _last_token(bare[:-1]) in _ABBREVIATIONS
    if not (bare[-1].isalnum() or unicodedata.category(bare[-1])[0] == "M") or _NO_STOPS.match(bare[-1]):
        return False
    if _SIGNATURE.search(text):
        return False
    return word_count(text) > WHOLE_WITHOUT_STOP


def _ends_with_marker(text: str) -> bool:
    """Return True if the last line is the marker of a list item that has no text yet."""
    before, _, line = text.rpartition("\n")
    found = _BARE_MARKER.match(line)
    if not before or not found or not line.strip():
        return False
    number = found["number"]
    return not number or re.search(rf"^\s*{int(number) - 1}[.)]", before, re.MULTILINE) is not None


def _last_token(text: str) -> str:
    found = _LAST_TOKEN.search(text[-20:])  # longer than any abbreviation
    return found.group().lower() if found else ""


def trim(text: str) -> str:
    """Return an answer up to its last complete sentence, list item, table row or code block; "" if it has none."""
    text = text.rstrip()
    return text[: max(_ends(text), default=0)]


def _ends(text: str) -> Iterator[int]:
    """Yield every place where a complete part of the text ends."""
    cased = any(char.isupper() for char in text)
    lines = text.split("\n")
    fenced, block, start = False, 0, 0  # within a code block; where the paragraph or list item begins
    for number, line in enumerate(lines):
        end = start + len(line)
        if _FENCE.match(line):
            fenced = not fenced
            if not fenced:
                yield start + len(line.rstrip())
            block = end + 1
        elif not fenced:
            if not line.strip() or _ITEM.match(line) or _HEADING.match(line):
                block = start
            places = [start + place for place in _sentence_ends(line, cased)] if not _HEADING.match(line) else []
            if number + 1 < len(lines) and _is_whole_line(lines, number):
                places.append(start + len(line.rstrip()))
            yield from (place for place in places if not _is_open(text[block:place]))
        start = end + 1


def _sentence_ends(line: str, cased: bool) -> Iterator[int]:
    for found in _STOP.finditer(line):
        after = line[found.end() :]
        if found.group()[0] in _FULL_WIDTH:
            yield found.end()
            continue
        following = after.lstrip(_OPENING)[:1]
        if (after and not after[0].isspace()) or (cased and following.islower()):
            continue
        before = line[: found.start()]
        if found.group().rstrip(_CLOSING) == "." and _is_no_stop(before, following):
            continue
        yield found.end()


def _is_no_stop(before: str, following: str) -> bool:
    """Return True if a full stop after ``before`` belongs to a list marker, an abbreviation or an initial."""
    if _BARE_MARKER.match(before + "."):
        return True
    token = _last_token(before)
    if token in _ABBREVIATIONS or (token in ("no", "nr") and following.isdigit()):
        return True
    initial = (len(token) == 1 and token.isalpha() and token != "i") or re.fullmatch(r"(?:[a-z]\.)+[a-z]", token)
    return bool(initial and following)


def _is_whole_line(lines: list[str], number: int) -> bool:
    """Return True for a list item or table row that the next line does not continue."""
    line = lines[number].rstrip()
    following = lines[number + 1]
    if line.lstrip().startswith("|"):
        # From the second row on: a header without rows is incomplete.
        return line.endswith("|") and number > 0 and lines[number - 1].lstrip().startswith("|") and "---" not in line
    if not _ITEM.match(line) or line.rstrip(_CLOSING)[-1:] in ("", *",;:-–—(") or _ends_with_marker("\n" + line):
        return False
    return not following.strip() or bool(_ITEM.match(following + " ") or _HEADING.match(following))


def _is_open(text: str) -> bool:
    """Return True if a bracket, quotation, emphasis or code is open at the end of the text."""
    item = _ITEM.match(text)
    text = text[item.end() :] if item else text
    if any(len(mark.findall(text)) % 2 for mark in (*_PAIRED, _STAR)):
        return True
    for opening, closing in _BRACKETS:
        depth = 0
        for char in text:
            depth = depth + (char == opening) if char != closing else max(0, depth - 1)
        if depth:
            return True
    return False
