"""Experience buffer reader: every dialect, several files as one union by id, read-only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ... import user_files
from ...data.import_report import ImportReport
from ...data.jsonl import parse_object
from ...errors import UserError
from .schema import Experience, parse_experience

MOST_BUFFER = 2**30
BUNDLE = "dream_bundle_header"


def read_bytes(path: str | Path) -> bytes:
    """Read a file's content.

    Raises:
        UserError: no such file, not a regular file, or one that cannot be read.
    """
    try:
        return user_files.read_bytes(path, MOST_BUFFER)
    except IsADirectoryError:
        raise UserError(f"{path}: this is not a file; give the path of an experience buffer") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read ({error.strerror or error}); check the path") from error


def decode_json(path: str | Path, content: bytes) -> Any:
    """Decode a whole file as one JSON value.

    Raises:
        UserError: not UTF-8, truncated, or otherwise not JSON.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: this is not UTF-8 text (byte {error.start + 1:,}); convert it, or restore it from a backup"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: the JSON is broken or cut off there ({error.msg}); "
            "restore the file from a backup, or correct it"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits, and very deep nesting
        raise UserError(f"{path}: this JSON is not an experience buffer ({error}); check the path") from None


def rows_of(path: str | Path, value: Any) -> list[Any]:
    """Return the rows of a JSON buffer: a list, or an object whose ``experiences`` are one.

    Raises:
        UserError: it is neither.
    """
    rows = value.get("experiences") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError(
            f'{path}: an experience buffer is a JSON list, or {{"experiences": [...]}}; this is neither, check the path'
        )
    return rows


def read_buffer(path: str | Path, report: ImportReport | None = None) -> list[Experience]:
    """Read the experiences of one file, in its order; ``parse_experience`` gives their form.

    A row that cannot be used is left out, counted and named in ``report``.

    Raises:
        UserError: the file cannot be read, is not a buffer, or is a dream bundle without text.
    """
    report = report if report is not None else ImportReport("salience")
    content = read_bytes(path)
    experiences = []
    for where, row in _numbered_rows(path, content):
        report.read += 1
        try:
            if isinstance(row, ValueError):
                raise row
            experiences.append(parse_experience(row))
        except ValueError as error:
            report.leave_out(str(error), where)
    return experiences


def _numbered_rows(path: str | Path, content: bytes) -> Iterator[tuple[str, Any]]:
    if not content.strip():
        return
    if _is_jsonl(content):
        lines = list(_parsed_lines(path, content))
        header = next((row for _, row in lines if isinstance(row, dict) and row.get("_type") == BUNDLE), None)
        if header is not None:
            _refuse_bundle_without_text(path, header, lines)
        yield from ((where, row) for where, row in lines if row is not header)
        return
    for number, row in enumerate(rows_of(path, decode_json(path, content)), 1):
        yield f"{path}, row {number}", row


def _is_jsonl(content: bytes) -> bool:
    """Return True for one JSON object per line; a buffer that is one object has its ``experiences`` in it."""
    first = content.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)[0].strip()
    if not (first.startswith(b"{") and first.endswith(b"}")):
        return False
    try:
        row = parse_object(first)
    except ValueError:
        return False
    return not isinstance(row.get("experiences"), list)


def _parsed_lines(path: str | Path, content: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", parse_object(line)
            except ValueError as error:
                yield f"{path}, line {number}", error


def _refuse_bundle_without_text(path: str | Path, header: dict[str, Any], lines: Iterable[tuple[str, Any]]) -> None:
    for _, row in lines:
        try:
            parse_experience(row)
            return
        except ValueError:
            continue
    raise UserError(
        f"{path}: this dream bundle lists the salience of {header.get('experience_count', 'its')} experiences "
        "but not their text, so there is nothing to learn from; give the agent's experience buffer instead"
    )


def union_by_id(paths: Iterable[str | Path], report: ImportReport) -> dict[str, tuple[str, Experience]]:
    """Return id -> (file, experience) over several files; the first occurrence of an experience wins.

    Duplicates are left out, counted and named; files of one agent are usually supersets of each other.

    Raises:
        UserError: as :func:`read_buffer`.
    """
    union: dict[str, tuple[str, Experience]] = {}
    for path in paths:
        for experience in read_buffer(path, report):
            if experience["id"] in union:
                report.leave_out("the same experience again", f"{experience['id']} in {path}")
            else:
                union[experience["id"]] = str(path), experience
    return union


def read_buffers(paths: Iterable[str | Path], report: ImportReport | None = None) -> list[Experience]:
    """Read the experiences of several files, each once, as :func:`union_by_id` does."""
    report = report if report is not None else ImportReport("salience")
    return [experience for _, experience in union_by_id(paths, report).values()]
