"""JSONL that other programs wrote: what cannot be used is left out, counted and named, and the rest is read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from .report import ImportReport

# A longer line is skipped without ever being held: no store has one, a damaged file may be a single one.
LONGEST_LINE = 64 * 2**20


def read_objects(path: str | Path, report: ImportReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of each line that holds a JSON object; ``where`` names file and line.

    Empty lines count for nothing; every other one is counted in ``report.read``, and named there if it is left out.

    Raises:
        UserError: no such file, a directory or a device, or one that cannot be read.
    """
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        report.read += 1
        try:
            yield where, parse_object(line)
        except ValueError as error:
            report.leave_out(str(error), where)


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of each line that is not empty; one of ``LONGEST_LINE`` bytes or more is cut there.

    Raises:
        UserError: no such file, a directory or a device, or one that cannot be read.
    """
    try:
        # A pipe or a device could keep us waiting for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path}: this is not a file; give the path of a JSONL file")
        with open(path, "rb") as file:
            yield from _lines(file)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read ({error.strerror or error}); check the path") from error


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for number in count(1):
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line, which can be written again as it is.

    Raises:
        ValueError: why it cannot be used, in words that do for every line of its kind.
    """
    if len(line) >= LONGEST_LINE:
        raise ValueError(f"line of {LONGEST_LINE // 2**20} MB or more")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("line that is not UTF-8") from None
    except (ValueError, RecursionError):  # Python itself refuses numbers of thousands of digits, and deep nesting
        raise ValueError("line that is not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("line that is not a JSON object")
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError:
        raise ValueError("line with half a character (a lone surrogate) or a number that is not finite") from None
    return row


def shortened(value: Any, length: int = 60) -> str:
    """``repr`` of a value in a message, however large the value is."""
    text = repr(value[:length] if isinstance(value, str) else value)
    return text if len(text) <= length else text[:length] + "…"
