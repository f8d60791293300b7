"""Dataset table: every row of a dataset with its place, split, prompt and answer, as the checks read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..dataset import HELD_OUT, split_files, split_of
from ..formats import DataRow, Reader, read_rows, stem_of

__all__ = ["HELD_OUT", "Item", "Table", "read_table", "split_of"]

TRUE = (True, 1, "true", "True", "yes", "1")
NEGATIVE_BUCKET = re.compile(r"(^|[^a-z])neg(ative)?s?($|[^a-z])")


def prompt_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the text before the last answer, tools and roles included, white space as single spaces."""
    asked = [f"{m['role']}: {' '.join((m.get('content') or '').split())}" for m in messages[: _last_answer(messages)]]
    return "\n".join([*([f"tools: {json.dumps(tools, sort_keys=True)}"] if tools else []), *asked])


def _last_answer(messages: Sequence[Mapping[str, Any]]) -> int:
    return max(i for i, message in enumerate(messages) if message["role"] == "assistant")


@dataclass
class Item:
    """A usable row.

    Attributes:
        split: train, valid or test.
        prompt: the text before the last answer, roles included, white space as single spaces.
        answer: the last answer as it stands, tool calls included.
    """

    row: DataRow
    split: str
    prompt: str = ""
    answer: str = ""

    def __post_init__(self) -> None:
        messages = self.row.messages
        last = _last_answer(messages)
        self.prompt = prompt_of(messages, self.row.tools)
        calls = messages[last].get("tool_calls")
        self.answer = (messages[last].get("content") or "") + (json.dumps(calls, sort_keys=True) if calls else "")

    @property
    def where(self) -> str:
        """File and line."""
        return self.row.where

    @cached_property
    def pair(self) -> tuple[str, str]:
        """Prompt and answer with normalized white space: the key of exact duplicates."""
        return self.prompt, " ".join(self.answer.split())

    @property
    def trained(self) -> bool:
        """True if training sees the row: it is of a training file, and its weight is above 0."""
        return self.split == "train" and self.row.weight > 0

    @cached_property
    def meaning(self) -> str:
        """The answer with normalized white space; of an answer in JSON its value, however it is formatted."""
        return json_value(self.answer) or self.pair[1]

    @property
    def everything(self) -> str:
        """All texts of all messages, thoughts and tool calls included, and the tools."""
        said = [value for message in self.row.messages for key, value in message.items() if key != "role"]
        texts = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in said if one]
        return "\n".join([*texts, *([json.dumps(self.row.tools, ensure_ascii=False)] if self.row.tools else [])])

    @property
    def question(self) -> str:
        """The text before the last answer, without the system prompt, which rows usually share."""
        last = _last_answer(self.row.messages)
        return "\n".join(m.get("content") or "" for m in self.row.messages[:last] if m["role"] != "system")

    def marked(self, mark: str) -> bool:
        """Return True if the meta has the mark, as ``true`` or as text."""
        value = self.row.meta.get(mark)
        return isinstance(value, (bool, int, str)) and value in TRUE

    def bucket(self, known: Collection[str]) -> str:
        """Return the row's ``task_type`` or its file's name, whichever is ``known``; the former if neither is."""
        stem = stem_of(self.row.file)
        kind = self.row.meta.get("task_type") or self.row.meta.get("bucket") or stem
        return stem if stem in known and str(kind) not in known else str(kind)

    @cached_property
    def negative(self) -> bool:
        """True for an example of unwanted behaviour: marked so, or of a bucket that is named so (``tool_neg``)."""
        names = (str(self.row.meta.get("task_type", "")), stem_of(self.row.file))
        return self.marked("is_negative_example") or any(NEGATIVE_BUCKET.search(name.lower()) for name in names)


@dataclass
class Table:
    """A dataset, and the inputs of its checks.

    Attributes:
        items: the usable rows, in the order of files and lines.
        malformed: the others.
        files: the files read.
        plan: rows wanted by bucket; ``stated_total`` is the sum that the plan itself states.
        tokenizer: of the base model; without one the checks that need it are left out.
        max_seq_length: tokens.
        sampled: encode only some rows of each kind of conversation.
        advance: called with the number of further rows that a slow check has done.
        shared: results of one check that another needs too.
    """

    items: list[Item]
    malformed: list[DataRow] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    plan: Mapping[str, int] | None = None
    stated_total: int | None = None
    tokenizer: Any = None
    max_seq_length: int = 512
    sampled: bool = False
    advance: Callable[[int], None] = lambda more: None
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of lines that are not empty."""
        return len(self.items) + len(self.malformed)

    @cached_property
    def trained(self) -> list[Item]:
        """The training rows."""
        return [item for item in self.items if item.trained]

    @cached_property
    def held_out(self) -> list[Item]:
        """The evaluation rows."""
        return [item for item in self.items if item.split != "train"]

    @cached_property
    def distinct(self) -> int:
        """The number of rows that differ in prompt or answer."""
        return len({item.pair for item in self.items})


def json_value(text: str) -> str | None:
    """Return the canonical JSON of an object or list, JSON in its strings (tool calls) included, or ``None``."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.dumps(_plain(json.loads(text)), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    """Return a value with 1.0 as 1, and JSON text as its value in canonical form."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return json_value(value) or value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_table(paths: Sequence[str | Path], read: Reader = read_rows) -> Table:
    """Return all rows of files, directories and datasets of the Hub; a file named twice is read once.

    Args:
        read: reads the rows of a file, see :func:`~mlx_lora.data.formats.remembering`.

    Raises:
        UserError: a file or directory is missing or cannot be read, or there is no row at all.
    """
    table = Table([])
    seen = set()
    for split, file in (pair for path in paths for pair in split_files(path)):
        if file.absolute() not in seen:
            seen.add(file.absolute())
            table.files.append(file)
            _add(table, read(file), split)
    if not table.rows:
        raise UserError(f"{', '.join(map(str, table.files))}: there is no row in it, so there is nothing to check")
    return table


def _add(table: Table, rows: Iterable[DataRow], split: str) -> None:
    for row in rows:
        if row.error:
            table.malformed.append(row)
        else:
            table.items.append(Item(row, split))
