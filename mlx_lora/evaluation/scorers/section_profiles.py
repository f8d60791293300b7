"""Profiles of sections: the spelling that a document's headings and labels must have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .answer_text import prose_lines

PDCA = ("## Plan", "## Do", "## Check", "## Act")
LINKS = ("PRECEDES:", "FOLLOWS:")
# The template's own headings (template 3.x of the project whose documents these are).
_TEMPLATE_V3 = {
    "plan": "## **📋 PLAN**",
    "do": "## **🔧 DO**",
    "check": "## **✅ CHECK**",
    "act": "## **🎯 ACT**",
}
# Neither a letter nor a digit: signs of Markdown, numbering's points, emoji and their joiners.
_SIGNS = r"[^\w\n]"
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+\S")


# Level of a label, below those of headings.
LABEL = 7


@dataclass
class Place:
    """Section that was found: number of its line, its level, and the rest of a label's line."""

    line: int
    level: int
    rest: str


Find = Callable[[str], tuple[int, str] | None]


@dataclass
class Document:
    """Text as lines, code blocks set apart: a heading in a code block is not a section."""

    lines: list[str]
    prose: list[bool]

    @classmethod
    def of(cls, text: str) -> Document:
        """Return the document of an answer, without the fence that may enclose all of it."""
        lines = text.strip().splitlines()
        if len(lines) > 2 and re.match(r"(```+|~~~+)[ \t]*(markdown|md)?[ \t]*$", lines[0]):
            mark = lines[0].split("m")[0].strip()
            lines = lines[1:-1] if lines[-1].strip() == mark else lines[1:]
        return cls(lines, prose_lines(lines))

    def find(self, name: str, profile: str) -> Iterator[Place]:
        """Yield every place of a section in the spelling of a profile, in order."""
        find = _finder(name, profile)
        for number, line in enumerate(self.lines):
            if self.prose[number] and (found := find(line)) is not None:
                yield Place(number, *found)

    def heading_level(self, number: int) -> int | None:
        """Return the level of a line that is a heading, else None."""
        found = _HEADING.match(self.lines[number]) if self.prose[number] else None
        return len(found[1]) if found else None


def default_sections(profile: str) -> list[str]:
    """Return the sections of a PDCA document under a profile; only the seed's has an Objective heading and links."""
    return ["## Objective", *PDCA, *LINKS] if profile == "seed" else list(PDCA)


def is_asked(name: str, profile: str) -> bool:
    """Return True if a section has a counterpart under a profile: the template has fields for objective and links."""
    return profile == "seed" or name not in ("## Objective", *LINKS)


def _finder(name: str, profile: str) -> Find:
    words = name.strip("# :*_")
    if name.startswith("#"):
        level = len(name) - len(name.lstrip("#"))
        if profile == "seed":
            return _literal(name, level)
        if profile == "template_v3" and words.casefold() in _TEMPLATE_V3:
            return _literal(_TEMPLATE_V3[words.casefold()], level)
        return _any_heading(words)
    return _within(name) if profile == "seed" and name.endswith(":") else _label(words)


def _literal(heading: str, level: int) -> Find:
    """Return a finder of a heading as it is written, with any text after it."""
    pattern = re.compile(re.escape(heading) + r"(?!\w)(.*)$")

    def find(line: str) -> tuple[int, str] | None:
        found = pattern.match(line)
        return (level, "") if found else None

    return find


def _any_heading(words: str) -> Find:
    """Return a finder of a heading in any spelling: level, case, emphasis, emoji, numbers; or bold in its own line."""
    spelled = rf"(?:\d+{_SIGNS}+)?(?:{re.escape(words[0])}{_SIGNS}+)?{re.escape(words)}(?!\w)"
    pattern = re.compile(
        rf" {{0,3}}(?:(#{{1,6}}){_SIGNS}*{spelled}|\*\*{_SIGNS}*{spelled}{_SIGNS}*\*\*{_SIGNS}*$)", re.IGNORECASE
    )

    def find(line: str) -> tuple[int, str] | None:
        found = pattern.match(line)
        return (len(found[1] or "######"), "") if found else None

    return find


def _label(words: str) -> Find:
    """Return a finder of a label at the beginning of a line: ``Trigger:``, ``**[T]rigger:**``, ``### Trigger``."""
    first, rest = re.escape(words[0]), re.escape(words[1:])
    pattern = re.compile(
        rf"^{_SIGNS}*(?:\d+{_SIGNS}+)?{first}[\]*_]*{rest}[\]*_ ]*(?:[:：][*_ ]*|(?<=[*_])|$)(.*)$", re.IGNORECASE
    )

    def find(line: str) -> tuple[int, str] | None:
        found = pattern.match(line)
        if found is None:
            return None
        heading = _HEADING.match(line)
        return (len(heading[1]) if heading else LABEL, found[1])

    return find


def _within(label: str) -> Find:
    """Return a finder of a label as it is written, anywhere in a line."""

    def find(line: str) -> tuple[int, str] | None:
        _, found, rest = line.partition(label)
        return (LABEL, rest) if found else None

    return find
