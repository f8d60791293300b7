"""File containers: JSONL, a JSON array, CSV, TSV and Parquet, plain or gzip, and datasets of the Hugging Face Hub.

JSON is detected by its first characters, gzip and Parquet by theirs, CSV and TSV by their name.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line, shortened
from . import jsonl
from .hub import EXTRA, is_hub, read_hub
from .jsonl import DataFile, check_surrogates, lines_of, open_data, parse_line
from .schema import is_text

# File name suffixes, each also with .gz.
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
# JSON that is one value, and gzip around Parquet, are read into memory whole.
MOST_HELD = 2**30
_SPACE = re.compile(r"[ \t\r\n]*")
_PARQUET = b"PAR1"


@dataclass
class Record:
    """One row of a file, or why it cannot be read.

    Attributes:
        number: of the line (``unit`` line) or row, counted from 1.
        error: the problem, without the place, or ``None``.
    """

    number: int
    value: Any = None
    error: str | None = None
    unit: str = "row"


def read_records(path: str | Path) -> Iterator[Record]:
    """Yield every row of a file or dataset.

    Raises:
        UserError: it is missing, is not a regular file, or cannot be read at all.
    """
    if is_hub(path):
        for number, row in enumerate(read_hub(path), 1):
            yield Record(number, _plain(row))
        return
    with open_data(path) as file:
        name = Path(path).name.lower().removesuffix(".gz")
        head = file.peek(64)
        if head.startswith(_PARQUET) or name.endswith(".parquet"):
            yield from _parquet(path, file, head)
        elif name.endswith((".csv", ".tsv")):
            yield from _csv(path, file, "\t" if name.endswith(".tsv") else ",")
        elif head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            yield from _array(_whole_text(path, file))
        elif name.endswith(".json"):
            yield from _json(path, file)
        else:
            yield from _lines(lines_of(file))


def _lines(lines: Iterator[tuple[int, bytes]]) -> Iterator[Record]:
    for number, line in lines:
        try:
            yield Record(number, parse_line(line), unit="line")
        except ValueError as error:
            yield Record(number, error=str(error), unit="line")


def _whole(path: str | Path, file: DataFile) -> bytes:
    content = file.read(MOST_HELD + 1)
    if len(content) > MOST_HELD:
        raise UserError(f"{path}: this file has more than {MOST_HELD >> 30} GiB in one piece; convert it to JSONL")
    return content


def _whole_text(path: str | Path, file: DataFile) -> str:
    try:
        return _whole(path, file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None


def _json(path: str | Path, file: DataFile) -> Iterator[Record]:
    """Yield the rows of a .json file that is not an array: ``{"data": [...]}``, one row, or JSONL by another name."""
    content = _whole(path, file)
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield from _lines(lines_of(io.BytesIO(content)))
        return
    rows = value.get("data") if isinstance(value, dict) else None
    if isinstance(rows, list) and "messages" not in value:
        yield from _array(json.dumps(rows))
    else:
        yield from _array(f"[{json.dumps(value)}]")


def _array(text: str) -> Iterator[Record]:
    """Yield the elements of a JSON array, decoded one by one; a syntax error ends it."""
    decoder = json.JSONDecoder()
    number, position = 0, _skip(text, text.index("[") + 1)
    try:
        while not text.startswith("]", position):
            number += 1
            value, end = decoder.raw_decode(text, position)
            try:
                check_surrogates(text[position:end], value)
                yield Record(number, value)
            except ValueError as error:
                yield Record(number, error=str(error))
            position = _skip(text, end)
            if text.startswith(",", position):
                position = _skip(text, position + 1)
            elif not text.startswith("]", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        if (after := _skip(text, position + 1)) != len(text):
            number += 1
            raise json.JSONDecodeError("Extra data after the array", text, after)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno} of the file"
        yield Record(number, error=f"this is not JSON ({reason}); correct it, nothing after it was read")
    except (ValueError, RecursionError):
        yield Record(number, error="this is not JSON that can be read (a number or a nesting without end); correct it")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _csv(path: str | Path, file: DataFile, delimiter: str) -> Iterator[Record]:
    """Yield the rows of a table with a header; an empty cell is a key that is absent."""
    longest = jsonl.LONGEST_LINE
    csv.field_size_limit(longest)

    def texts() -> Iterator[str]:
        start = True
        while line := file.readline(longest):
            if len(line) == longest and not line.endswith(b"\n"):
                raise csv.Error(f"a line is longer than {longest >> 20} MiB")
            yield line.removeprefix(b"\xef\xbb\xbf" if start else b"").decode("utf-8", "surrogateescape")
            start = False

    number = 0
    try:
        rows = csv.reader(texts(), delimiter=delimiter, strict=True)
        header = next((row for row in rows if row), [])
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path}: its header names the column {shortened(twice)} twice; rename one of them")
        for row in rows:
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                said = f"it has {len(row)} cells, and the header has {len(header)}; correct or remove the row"
                yield Record(number, error=said)
            elif not all(map(is_text, row)):
                yield Record(number, error="it is not UTF-8; save the file as UTF-8")
            else:
                yield Record(number, {name: _cell(name, cell) for name, cell in zip(header, row, strict=True) if cell})
    except csv.Error as error:
        yield Record(number + 1, error=f"this is not CSV ({error}); correct it, nothing after it was read")


def _cell(name: str, text: str) -> Any:
    """Return the value of a cell: text, but for weights and TRL's lists of messages, which CSV only holds as text."""
    try:
        value = json.loads(text) if name in ("weight", "prompt", "completion", "chosen", "rejected") else None
    except (ValueError, RecursionError):
        return text
    messages = isinstance(value, list) and value and all(isinstance(message, dict) for message in value)
    return value if messages or (name == "weight" and isinstance(value, (int, float))) else text


def _parquet(path: str | Path, file: DataFile, head: bytes) -> Iterator[Record]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; install it with {EXTRA}") from None
    if not head.startswith(_PARQUET):
        raise UserError(f"{path}: this is not a Parquet file; check what it is, or name it by its kind")
    number = 0
    with _one_sentence(path, number):
        table = pyarrow.parquet.ParquetFile(io.BytesIO(_whole(path, file)) if file.compressed else str(path))
        batches = table.iter_batches(batch_size=256)
    while True:
        with _one_sentence(path, number):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        for row in rows:
            number += 1
            yield Record(number, _plain(row))


@contextmanager
def _one_sentence(path: str | Path, number: int) -> Iterator[None]:
    """Turn any exception of pyarrow into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: this Parquet file cannot be read after row {number} ({first_line(error)})") from error


def _plain(value: Any) -> Any:
    """Return an Arrow value as JSON's types; a struct's empty fields are those that other rows have."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (date, time, Decimal)):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
