"""Scorer of a document's sections: there, in order, with substance, with links to its neighbours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError, nearest
from ..cases import Case
from .base import Score, Scorer, as_list, quoted, read_options
from .section_profiles import LABEL, LINKS, Document, Place, default_sections, is_asked

OPTIONS = {"all": "texts", "profile": "text", "order": "flag", "substance": "flag", "dual_links": "flag"}
PROFILES = ("seed", "template_v3", "relaxed")

# {{NAME}} and {{#each NAME}} of a template that was not filled in; not the ${{ name }} of a build file.
_PLACEHOLDER = re.compile(r"(?<!\$)\{\{[#/]?(?:each|if|unless)?\s*[A-Z0-9_ ]*\}\}")
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[([^\]\n]*)\]\(([^)\n]*)\)")
# Two halves, [GitHub](URL) | [path](path); the second is a bare path in some documents.
_DUAL = re.compile(rf"{_LINK.pattern}\s*\|\s*(?:{_LINK.pattern}|([^\s|].*))")
_NOTHING = re.compile(r"(?:tbd|todo|n/?a|none|null|empty|\W)*", re.IGNORECASE)


def sections(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes documents with all their sections, spelled as the profile says.

    Options: ``all`` (names; by default those of a PDCA document), ``profile``, ``order`` (as they are listed),
    ``substance`` (no placeholder, no section empty), ``dual_links`` (links to the neighbours, not empty). The profile
    that a user asks for comes before the suite's. Metrics: ``found``, the share of the sections.
    """
    given = read_options(options, where, "sections", OPTIONS, main="all")
    spelling = profile or given.get("profile") or "seed"
    if spelling not in PROFILES:
        raise UserError(
            f"{where}: sections has no profile {spelling!r}; the nearest is {nearest(spelling, PROFILES)!r}"
        )
    names = as_list(given.get("all", default_sections(spelling)))
    if any(not name.strip("# :*_") for name in names):
        raise UserError(f"{where}: sections: all has a name without a word: {quoted(names)}")
    names = [name for name in names if is_asked(name, spelling)]

    def score(case: Case, answer: str) -> Score:
        document = Document.of(answer)
        places = {name: list(document.find(name, spelling)) for name in names}
        missing = [name for name in names if not places[name]]
        metrics = {"found": 1.0 - len(missing) / len(names)} if names else {}
        reasons = [f"the answer lacks {quoted(missing, 8)} (profile {spelling})"] if missing else []
        if not missing and given.get("order"):
            reasons += _order_faults(names, places)
        if given.get("substance"):
            linked = LINKS if given.get("dual_links") else ()
            reasons += _substance_faults(document, [name for name in names if name not in linked], places)
        if given.get("dual_links"):
            reasons += _link_faults(document, spelling)
        return Score(not reasons, "; ".join(reasons), metrics)

    return score


def _order_faults(names: Sequence[str], places: dict[str, list[Place]]) -> list[str]:
    last, before = -1, ""
    for name in names:
        after = next((place.line for place in places[name] if place.line > last), None)
        if after is None:
            return [f"{name!r} does not come after {before!r}"]
        last, before = after, name
    return []


def _substance_faults(document: Document, names: Sequence[str], places: dict[str, list[Place]]) -> list[str]:
    faults = []
    for number, line in enumerate(document.lines, 1):
        found = _PLACEHOLDER.search(_INLINE_CODE.sub("", line))
        if found:
            faults.append(f"line {number} still has the placeholder {found[0]}")
            break
    starts = {place.line: place.level for found in places.values() for place in found}
    # A heading may come twice, say in a summary: one of them has to hold the section.
    empty = [name for name in names if places[name] and not any(_has_text(document, p, starts) for p in places[name])]
    return faults + ([f"the section {quoted(empty, 8)} is empty"] if empty else [])


def _has_text(document: Document, place: Place, starts: dict[int, int]) -> bool:
    """Return True if there is a word between a section's heading and the next one of its level; headings are none."""
    if not _NOTHING.fullmatch(place.rest):
        return True
    for number in range(place.line + 1, len(document.lines)):
        level = document.heading_level(number)
        if starts.get(number) == LABEL or min(level or LABEL, starts.get(number, LABEL)) <= min(place.level, LABEL - 1):
            return False
        if level is None and not _NOTHING.fullmatch(document.lines[number]):
            return True
    return False


def _link_faults(document: Document, spelling: str) -> list[str]:
    """Return a sentence if links are missing or empty.

    The seed's links are the values of ``PRECEDES:`` and ``FOLLOWS:``. The template's are dual links,
    ``[GitHub](URL) | [path](path)``; relaxed, any link does, or a value of the seed's.
    """
    if spelling == "seed" or (spelling == "relaxed" and any(any(document.find(n, "relaxed")) for n in LINKS)):
        bare = [name for name in LINKS if not any(_link_has_value(document, p) for p in document.find(name, spelling))]
        return [f"the link {quoted(bare)} is missing or empty"] if bare else []
    text = "\n".join(line for line, prose in zip(document.lines, document.prose, strict=True) if prose)
    if spelling == "relaxed":
        filled = any(_is_filled(*found) for found in _LINK.findall(text))
        return [] if filled else ["the document has no link"]
    duals = _DUAL.findall(text)
    if not duals:
        return ["the document has no dual link, [GitHub](URL) | [path](path)"]
    hollow = [dual for dual in duals if not (_is_filled(*dual[:2]) and (dual[4] or _is_filled(*dual[2:4])))]
    return [f"the dual link [{hollow[0][0]}]({hollow[0][1]}) | … has an empty half"] if hollow else []


def _is_filled(text: str, target: str) -> bool:
    # A target may be ".", the folder itself.
    return bool(target.strip()) and not (_NOTHING.fullmatch(text) or _PLACEHOLDER.search(text + target))


def _link_has_value(document: Document, place: Place) -> bool:
    """Return True if there is a value beside a label or, up to the next label or empty line, below it."""
    value = place.rest
    for name in LINKS:
        value = value.partition(name)[0]
    below = document.lines[place.line + 1 :]
    if _NOTHING.fullmatch(value) and below and not any(name in below[0] for name in LINKS):
        value = below[0] if document.heading_level(place.line + 1) is None else ""
    if _PLACEHOLDER.search(value):
        return False
    links = _LINK.findall(value)
    return any(_is_filled(*link) for link in links) if links else not _NOTHING.fullmatch(value)
