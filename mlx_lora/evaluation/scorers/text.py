"""Scorers of the answer's text: contains, contains_all, not_contains, identity and regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex

from ...errors import UserError, first_line, shortened
from ..cases import Case
from .base import Score, Scorer, as_list, case_error, expected_texts, quoted, read_options

OPTIONS = {"texts": "texts", "case_sensitive": "flag"}
PATTERN_OPTIONS = {"pattern": "text", "ignore_case": "flag", "whole": "flag", "absent": "flag", "time_limit": "seconds"}
# No pattern can hang an evaluation.
SECONDS = 2.0


def _plain(text: str, case_sensitive: bool) -> str:
    # Typographic apostrophes and spaces that cannot break are the same signs to a reader.
    text = text.replace("’", "'").replace("\u00a0", " ")
    return text if case_sensitive else text.casefold()


def _text_scorer(name: str, options: Any, where: str) -> Scorer:
    given = read_options(options, where, name, OPTIONS, main="texts")
    texts, case_sensitive = given.get("texts"), given.get("case_sensitive", False)

    def score(case: Case, answer: str) -> Score:
        wanted = as_list(texts) if texts is not None else expected_texts(case, where, name)
        within = _plain(answer, case_sensitive)
        found = [text for text in wanted if _plain(text, case_sensitive) in within]
        missing = [text for text in wanted if text not in found]
        share = len(found) / len(wanted)
        if name == "not_contains":
            return Score(not found, f"the answer contains {quoted(found)}" if found else "", {"found": share})
        if name == "contains":
            one = "" if len(wanted) == 1 else "any of "
            return Score(bool(found), "" if found else f"the answer does not contain {one}{quoted(wanted)}")
        return Score(not missing, f"the answer lacks {quoted(missing)}" if missing else "", {"found": share})

    return score


def contains(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers with at least one of the texts."""
    return _text_scorer("contains", options, where)


def contains_all(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers with every text."""
    return _text_scorer("contains_all", options, where)


def not_contains(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers with none of the texts."""
    return _text_scorer("not_contains", options, where)


def identity(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers in which the agent keeps its name and its role.

    Both are looked for as whole words. A case's ``expect: {name, role}`` comes before the options. With ``tags``,
    only cases that have one of them are judged; the others pass.
    """
    given = read_options(options, where, "identity", {"name": "texts", "role": "texts", "tags": "texts"})
    tags = set(as_list(given["tags"])) if "tags" in given else None

    def score(case: Case, answer: str) -> Score:
        if tags is not None and not tags.intersection(case.tags):
            return Score(True)
        own = case.expect if isinstance(case.expect, Mapping) else {}
        wanted = {key: own.get(key, given.get(key)) for key in ("name", "role")}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        if not wanted:
            raise case_error(where, case, "has no name or role in expect, and identity has none either")
        for key, value in wanted.items():
            if not all(isinstance(text, str) and text for text in as_list(value)):
                raise case_error(where, case, f"has {shortened(value)} as {key}, and it must be a text")
        kept = {key: any(_says(answer, text) for text in as_list(value)) for key, value in wanted.items()}
        lost = [f"its {key} ({quoted(as_list(wanted[key]))})" for key, found in kept.items() if not found]
        reason = f"the agent does not say {' nor '.join(lost)}" if lost else ""
        return Score(not lost, reason, {key: float(found) for key, found in kept.items()})

    return score


def _says(answer: str, text: str) -> bool:
    words = re.escape(_plain(text, False))
    return re.search(rf"(?<!\w){words}(?!\w)", _plain(answer, False)) is not None


def compile_pattern(pattern: str, where: str, ignore_case: bool = False) -> Any:
    """Compile a pattern in the syntax of ``re``; ``^`` and ``$`` match at every line.

    Raises:
        UserError: it is not a regular expression.
    """
    try:
        return regex.compile(pattern, regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0))
    except (regex.error, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: {shortened(pattern)} is not a regular expression ({first_line(error)})") from None


def regular_expression(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers in which the pattern is found.

    Options: ``pattern``; ``whole``, it must match the whole answer; ``absent``, it must not be found.
    """
    given = read_options(options, where, "regex", PATTERN_OPTIONS, main="pattern")
    if "pattern" not in given:
        raise UserError(f"{where}: regex needs a pattern")
    pattern = compile_pattern(given["pattern"], where, given.get("ignore_case", False))
    whole, absent, limit = given.get("whole", False), given.get("absent", False), given.get("time_limit", SECONDS)
    shown = shortened(given["pattern"])

    def score(case: Case, answer: str) -> Score:
        try:
            text = answer.strip() if whole else answer
            found = (pattern.fullmatch if whole else pattern.search)(text, timeout=limit) is not None
        except TimeoutError:
            return Score(False, f"the pattern {shown} took more than {limit:g} seconds on this answer")
        if found != absent:
            return Score(True)
        how = "is found in the answer" if absent else "does not match the answer" if whole else "is not found"
        return Score(False, f"the pattern {shown} {how}")

    return score
