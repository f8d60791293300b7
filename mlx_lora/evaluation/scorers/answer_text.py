"""Parts of an answer: fenced code blocks, and the JSON value that it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n]*)$")
# Places in an answer where a JSON value may begin that are tried.
MOST_STARTS = 200


@dataclass
class Block:
    """Fenced code block: its lines are ``first`` (the fence) to before ``end``; ``closed`` by a fence of its own."""

    language: str
    first: int
    end: int
    closed: bool


def fenced_blocks(lines: Sequence[str]) -> list[Block]:
    """Return the code blocks of a text; a block ends at a fence as long and without a language (CommonMark 4.5)."""
    blocks: list[Block] = []
    fence = ""
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if not fence and found:
            fence = found[1]
            blocks.append(Block(found[2].strip().split(" ")[0].lower(), number, len(lines), False))
        elif fence and found and found[1].startswith(fence) and not found[2].strip():
            blocks[-1].end, blocks[-1].closed, fence = number + 1, True, ""
    return blocks


def prose_lines(lines: Sequence[str]) -> list[bool]:
    """Return for each line True if it is outside of code blocks.

    A block that is never closed counts as text: a fence that is missing must not hide what follows.
    """
    outside = [True] * len(lines)
    for block in fenced_blocks(lines):
        if block.closed:
            outside[block.first : block.end] = [False] * (block.end - block.first)
    return outside


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, content) of the code blocks; one that is never closed runs to the end of the text."""
    lines = text.splitlines()
    return [
        (block.language, "\n".join(lines[block.first + 1 : block.end - block.closed])) for block in fenced_blocks(lines)
    ]


def json_values(text: str) -> Iterator[Any]:
    """Yield the JSON values of an answer: all of it, its code blocks, then objects and lists within its text."""
    for candidate in [text, *(content for _, content in code_blocks(text))]:
        try:
            yield json.loads(candidate.strip())
        except (ValueError, RecursionError):
            continue
    decoder, end = json.JSONDecoder(), 0
    for tried, found in enumerate(re.finditer(r"[{\[]", text)):
        if tried == MOST_STARTS:
            return
        if found.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        yield value
