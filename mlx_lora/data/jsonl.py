"""JSONL reader, plain or gzip: unusable lines are reported, and the rest is read."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..user_files import UnusableFile, open_regular
from .import_report import ImportReport
from .schema import is_text, shortened

__all__ = [
    "LONGEST_LINE",
    "open_data",
    "parse_line",
    "parse_object",
    "read_jsonl",
    "read_lines",
    "read_objects",
    "shortened",
]

# A longer line is skipped without being held in memory: no store has one, a damaged file may be a single one.
LONGEST_LINE = 64 * 2**20
# A gzip file that expands further than this is refused: text compresses 3 to 20 times, a gzip bomb 1,000 times.
MOST_EXPANSION, FREE_EXPANSION = 500, 64 * 2**20
_GZIP = b"\x1f\x8b"
_OTHER_COMPRESSION = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}


class Lines(Protocol):
    """A file that is read line by line."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, or its first ``limit`` bytes."""


class DataFile:
    """A regular file opened for reading, decompressed if it is gzip, with a limit on its expanded size."""

    def __init__(self, path: str | Path, file: BufferedReader) -> None:
        head = file.read(6)
        file.seek(0)
        other = next((name for magic, name in _OTHER_COMPRESSION.items() if head.startswith(magic)), None)
        if other:
            raise UserError(f"{path}: this file is compressed with {other}; decompress it, or use gzip")
        self.path, self.size = path, os.fstat(file.fileno()).st_size
        self.compressed = head.startswith(_GZIP)
        self._file = gzip.GzipFile(fileobj=file) if self.compressed else file
        self._expanded = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes, at least one unless at the end, without consuming them."""
        return self._file.peek(size)

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, or its first ``limit`` bytes."""
        return self._counted(self._file.readline(limit))

    def read(self, limit: int) -> bytes:
        """Return the next ``limit`` bytes, fewer only at the end."""
        parts, wanted = [], limit
        while wanted and (part := self._counted(self._file.read(min(wanted, 2**20)))):
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _counted(self, data: bytes) -> bytes:
        self._expanded += len(data)
        if self.compressed and self._expanded > max(FREE_EXPANSION, MOST_EXPANSION * self.size):
            raise UserError(
                f"{self.path}: this gzip file expands to more than {MOST_EXPANSION} times its size, which no data "
                "does; decompress it yourself if it is meant"
            )
        return data


@contextmanager
def open_data(path: str | Path) -> Iterator[DataFile]:
    """Open a regular file of data.

    Raises:
        UserError: no such file, a directory or a device, damaged gzip data, or a file that cannot be read.
    """
    try:
        with open_regular(path) as file:
            yield DataFile(path, file)
    except (IsADirectoryError, UnusableFile):
        raise UserError(f"{path}: this is not a file; give the path of a data file") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: its gzip data is damaged ({error}); get the file again") from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read ({error.strerror or error}); check the path") from error


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of each line that is not empty; one of ``LONGEST_LINE`` bytes or more is truncated.

    Raises:
        UserError: see :func:`open_data`.
    """
    with open_data(path) as file:
        yield from lines_of(file)


def lines_of(file: Lines) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of each line of an open file that is not empty."""
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


def parse_line(line: bytes) -> Any:
    """Return the JSON value of a line.

    Raises:
        ValueError: why it cannot be used, and what to do.
    """
    if len(line) >= LONGEST_LINE:
        raise ValueError(f"the line is longer than {LONGEST_LINE >> 20} MiB; split it")
    try:
        # Without its end, so that a truncated line has one error wherever it is.
        text = line.rstrip(b"\r\n").decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON ({error.msg}); correct or remove the line") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of open brackets
        raise ValueError(
            "this is not JSON that can be read (a number or a nesting without end); correct or remove the line"
        ) from None
    check_surrogates(text, value)
    return value


def check_surrogates(text: str, value: Any) -> None:
    r"""Raise ValueError if a JSON value, written as ``text``, holds an unpaired surrogate (``\ud800``)."""
    if "\\u" in text and "\\ud" in text.lower() and not is_text(json.dumps(value, ensure_ascii=False)):
        raise ValueError("it holds an unpaired surrogate, which is not text; correct or remove it")


def read_jsonl(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each line that is not empty, ``where`` naming file and line.

    Raises:
        UserError: the file cannot be read, or a line is not JSON.
    """
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            yield where, parse_line(line)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None


def read_objects(path: str | Path, report: ImportReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, object) of each line that holds a JSON object; ``where`` names file and line.

    Empty lines are not counted; every other one is counted in ``report.read``, and named there if it is left out.

    Raises:
        UserError: see :func:`open_data`.
    """
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        report.read += 1
        try:
            yield where, parse_object(line)
        except ValueError as error:
            report.leave_out(str(error), where)


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line, which can be written again unchanged.

    Raises:
        ValueError: why it cannot be used, in a sentence that is the same for every line of its kind.
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
