"""Checks of control tokens in messages: text that looks like one, or is a special token of the base model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..control_tokens import CONTROL, Intervals, matching, moved, strip_control_tokens
from ..dataset import Span
from .base import Hit
from .conflicts import brief
from .dataset_table import Item, Table


def control_like_text(table: Table) -> Iterator[Hit]:
    """Yield rows with text in the form of a control token: markers of another tool, or of another model's template."""
    for item, tokens in _found(table, CONTROL):
        yield Hit(f"{item.where}: {_listed(tokens)}")


def special_token_text(table: Table) -> Iterator[Hit]:
    """Yield rows whose text holds a special token of the base, which is encoded as such: it can end or begin a turn."""
    pattern = matching(special_tokens(table.tokenizer))
    for item, tokens in _found(table, pattern) if pattern else ():
        yield Hit(f"{item.where}: {_listed(tokens)}, which the base's tokenizer encodes as control tokens", [item])


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the special tokens of a tokenizer, as text."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _found(table: Table, pattern: re.Pattern[str]) -> Iterator[tuple[Item, list[str]]]:
    for item in table.items:
        if tokens := pattern.findall(item.everything):
            yield item, tokens


def _listed(tokens: list[str]) -> str:
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    return f"{brief(tokens[0])}{more}"


def strip_table(table: Table) -> tuple[Table, int]:
    """Strip control tokens from every message, those of the table's tokenizer too; spans move with their text.

    Returns:
        The table without them, and the number of rows that were changed.
    """
    own = matching(special_tokens(table.tokenizer)) if table.tokenizer is not None else None
    pattern = re.compile(f"{CONTROL.pattern}|{own.pattern}") if own else CONTROL
    items = [_stripped(item, pattern) for item in table.items]
    changed = sum(new is not old for new, old in zip(items, table.items, strict=True))
    return replace(table, items=items, shared={}), changed


def _stripped(item: Item, pattern: re.Pattern[str]) -> Item:
    """Return the item without control tokens in contents and thoughts; itself if it has none there."""
    messages, spans = list(item.row.messages), list(item.row.spans)
    for index, message in enumerate(messages):
        thought, thought_tokens, _ = strip_control_tokens(message.get("reasoning_content") or "", pattern)
        text, tokens, passes = strip_control_tokens(message.get("content") or "", pattern)
        if thought_tokens:
            messages[index] = {**messages[index], "reasoning_content": thought}
        if tokens:
            messages[index] = {**messages[index], "content": text}
            spans = [_moved(span, passes) if span.message == index else span for span in spans]
    if all(new is old for new, old in zip(messages, item.row.messages, strict=True)):
        return item
    spans = [span for span in spans if span.start < span.end]
    return Item(replace(item.row, messages=messages, spans=spans), item.split)


def _moved(span: Span, passes: Sequence[Intervals]) -> Span:
    return replace(span, start=moved(span.start, passes), end=moved(span.end, passes))
