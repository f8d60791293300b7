"""Text in messages that looks like control tokens, or is one of the base's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..control_tokens import CONTROL, matching, moved, strip_control_tokens
from .conflicts import brief
from .finding import Hit
from .table import Item, Table


def control_like_text(table: Table) -> Iterator[Hit]:
    """Rows with text in the form of a control token: markers of another tool, or of another model's template."""
    for item, tokens in _found(table, CONTROL):
        yield Hit(f"{item.where}: {_listed(tokens)}")


def special_token_text(table: Table) -> Iterator[Hit]:
    """Rows whose text holds a special token of the base: it is encoded as the control token itself, e.g. ends a turn."""
    pattern = matching(special_tokens(table.tokenizer))
    for item, tokens in _found(table, pattern) if pattern else ():
        yield Hit(f"{item.where}: {_listed(tokens)}, which the base's tokenizer encodes as control tokens", [item])


def special_tokens(tokenizer: Any) -> list[str]:
    """The tokens that a tokenizer calls special, as they are written."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _found(table: Table, pattern: re.Pattern[str]) -> Iterator[tuple[Item, list[str]]]:
    for item in table.items:
        if tokens := pattern.findall(item.everything):
            yield item, tokens


def _listed(tokens: list[str]) -> str:
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    return f"{brief(tokens[0])}{more}"


def strip_table(table: Table) -> tuple[int, int]:
    """Take control tokens out of every message, those of the table's tokenizer too; spans move with their text.

    Returns:
        How many tokens were taken out, and of how many rows.
    """
    own = matching(special_tokens(table.tokenizer)) if table.tokenizer is not None else None
    pattern = re.compile(f"{CONTROL.pattern}|{own.pattern}") if own else CONTROL
    removed = rows = 0
    for place, item in enumerate(table.items):
        if found := _strip_row(item, pattern):
            removed, rows = removed + found, rows + 1
            table.items[place] = Item(item.row, item.split)
    return removed, rows


def _strip_row(item: Item, pattern: re.Pattern[str]) -> int:
    """Strip a row in place; returns the number of tokens."""
    row, count = item.row, 0
    for index, message in enumerate(row.messages):
        text, tokens, passes = strip_control_tokens(message.get("content") or "", pattern)
        if not tokens:
            continue
        count += len(tokens)
        row.messages[index] = {**message, "content": text}
        spans = []
        for span in row.spans:
            if span.message == index:
                span = replace(span, start=moved(span.start, passes), end=moved(span.end, passes))
            if span.start < span.end:
                spans.append(span)
        row.spans = spans
    return count
