"""Rows of instruction files with their bucket and the flags that exclude them from training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data import formats
from ...data.dataset import Example
from ...data.import_report import ImportReport
from ...data.schema import shortened
from .legacy import without_end_token

FLAGS = ("is_negative_example", "is_eval", "never_train")
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0", "", "none")
# Real files mark evaluation rows by the name of this bucket alone.
EVAL_BUCKET = "eval"
MALFORMED = "row that cannot be used"
EMPTY = "row with an empty answer"


@dataclass
class Row:
    """Row as a conversation.

    Attributes:
        bucket: its task_type, or else the name of its file.
        flags: those of ``FLAGS`` that the row sets.
        dialect: as in :class:`~mlx_lora.data.formats.DataRow`.
        where: file and line.
    """

    example: Example
    bucket: str
    flags: set[str] = field(default_factory=set)
    dialect: str = "messages"
    where: str = ""

    @property
    def is_eval(self) -> bool:
        """True for an evaluation row, which is never trained on."""
        return "is_eval" in self.flags or self.bucket == EVAL_BUCKET


def read_rows(path: str | Path, report: ImportReport) -> Iterator[Row]:
    """Yield the rows of a file in any format and dialect; unusable rows are left out and reported.

    Raises:
        UserError: the file cannot be read.
    """
    for row in formats.read_rows(path):
        report.read += 1
        if row.error:
            report.leave_out(MALFORMED, f"{row.where}: {row.error}")
        elif row.refusal:
            report.leave_out(EMPTY, row.where)
        else:
            try:
                yield as_row(row)
            except ValueError as error:
                report.leave_out(MALFORMED, f"{row.where}: {error}")


def as_row(row: formats.DataRow) -> Row:
    """Convert a row of any file to a row with its bucket and flags.

    Raises:
        ValueError: a task_type that is not text, a flag neither true nor false, or a number that JSON cannot represent.
    """
    bucket = row.meta.get("task_type")
    if bucket is not None and not isinstance(bucket, str):
        raise ValueError(f"task_type must be text, not {shortened(bucket)}")
    if not bucket:
        bucket = row.meta["bucket"] = formats.stem_of(row.file)
    flags = {name for name in FLAGS if _is_true(row.meta, name)}
    if row.dialect == "text":
        row.messages[-1]["content"] = without_end_token(row.messages[-1]["content"])
    row.meta["from"] = row.where
    example = row.example()
    # Python's json reads and writes NaN and 1e999; other JSON readers reject them.
    json.dumps(example.to_dict(), allow_nan=False)
    return Row(example, bucket, flags, row.dialect, row.where)


def _is_true(meta: Mapping[str, Any], name: str) -> bool:
    text = str(meta.get(name)).lower() if isinstance(meta.get(name), (bool, int, str, type(None))) else "?"
    if text not in TRUE + FALSE:
        raise ValueError(f"{name} must be true or false, not {shortened(meta[name])}")
    return text in TRUE
