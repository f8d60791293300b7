"""Row reader: rows of any file in any dialect, each with its place; an unusable row does not stop the reading.

One set of readers for the checks, ``--fix``, ``data show``, training and the instructions source, so that a row is
usable for all of them or refused by all of them with the same sentence. :mod:`.containers` reads the files,
:mod:`.dialects` the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from .containers import SUFFIXES, Record, read_records
from .dialects import parse_row
from .hub import is_hub, parse_hub
from .messages import EMPTY_ANSWER, has_empty_answer
from .schema import Example, Span


@dataclass
class DataRow:
    """One row of a file.

    Attributes:
        file, line: where it stands; ``unit`` says whether lines or rows are counted, from 1.
        messages: the conversation; empty where ``error`` is set.
        meta: the row's other content: its ``meta`` or ``metadata``, and other keys at its top level.
        weight, spans, tools, template_kwargs: as in :class:`~mlx_lora.data.schema.Example`.
        dialect: messages, conversations, instruction, completion, query, question or text.
        unknown_keys: keys of messages that have no known meaning; they are given to the chat template.
        error: why this row cannot be used, without the place, or ``None``.
    """

    file: str
    line: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    spans: list[Span] = field(default_factory=list)
    dialect: str = "messages"
    error: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    unknown_keys: list[str] = field(default_factory=list)
    unit: str = "line"

    @property
    def where(self) -> str:
        """``FILE, line N``, or ``FILE, row N``."""
        return f"{self.file}, {self.unit} {self.line}"

    @property
    def refusal(self) -> str | None:
        """The reason that this row cannot be trained on, with its place, or ``None``."""
        reason = self.error or (EMPTY_ANSWER if has_empty_answer(self.messages) else None)
        return reason and f"{self.where}: {reason}"

    def example(self) -> Example:
        """Return the row as an :class:`~mlx_lora.data.schema.Example`."""
        return Example(self.messages, self.weight, self.meta, self.spans, self.tools, self.template_kwargs)


def read_rows(path: str | Path) -> Iterator[DataRow]:
    """Yield every row of a file or dataset; one that cannot be used has an ``error`` and no messages.

    An answer may be empty; ``refusal`` reports that.

    Raises:
        UserError: it is missing, is not a regular file, or cannot be read at all.
    """
    for record in read_records(path):
        yield _row(str(path), record)


Reader = Callable[[Path], Iterable[DataRow]]


def remembering() -> Reader:
    """Return a caching :func:`read_rows`, so that each file is read and parsed once."""
    return cache(lambda path: list(read_rows(path)))


def _row(file: str, record: Record) -> DataRow:
    row = DataRow(file, record.number, error=record.error, unit=record.unit)
    if record.error is None:
        try:
            parsed = parse_row(record.value)
        except UserError as error:
            row.error = str(error)
        else:
            row.messages, row.meta, row.weight, row.spans = parsed.messages, parsed.meta, parsed.weight, parsed.spans
            row.dialect, row.tools, row.template_kwargs = parsed.dialect, parsed.tools, parsed.template_kwargs
            row.unknown_keys = parsed.unknown_keys
    return row


def parse_example(where: str, value: Any) -> Example:
    """Return the example of one row.

    Raises:
        UserError: why it cannot be trained on, after ``where``.
    """
    row = _row("", Record(0, value))
    reason = row.error or (EMPTY_ANSWER if has_empty_answer(row.messages) else None)
    if reason:
        raise UserError(f"{where}: {reason}")
    return row.example()


@cache
def stem_of(path: str | Path) -> str:
    """Return the name of a file without its suffixes, or of a dataset of the Hub."""
    if is_hub(path):
        return parse_hub(path).stem
    name = Path(path).name.removesuffix(".gz")
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), Path(name).stem)
