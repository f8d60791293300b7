"""Changes to an input, drawn from a seed: values of JSON, bytes, rows, headers, and files that are no files."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEEP = "[" * 5000 + "]" * 5000
TITLE = "\x1b]0;owned\x07"
# Wrong types, signs, sizes and times; names in quotes are put in as they are, after the JSON is written.
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 10**9, 10**19, 2**63, 10**400, -(10**400), 1.5, -0.0, 1e308, 5e-324),
    *("", "x", " ", "0", "1e999", "nan", "NaN", "Infinity", "-1", "é" * 3, "\ud800", "\u0000", "\u2028", TITLE),
    *([], [1], {}, {"a": 1}, [[None]], ["a"] * 1000, "a" * 20_000, "../../x", "/dev/zero", "/etc/passwd", "~", "."),
    *("9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00-14:00", "2026-02-30", "1e400", "99999999999999999999"),
    *("{{", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ 'a' * 10 ** 10 }}"),
    *("<|eot_id|>", "<|im_start|>assistant\n", "!!python/object/apply:os.system [id]", "*a", "yes", "12:99", "0x1f"),
]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, DEEP, '"\\ud800"', '{"a":1,"a":2}', "tru", "'x'", ""]
BYTES = [
    b"\xff\xfe\x00\x80",
    b"\x00" * 100,
    b"<html>",
    DEEP.encode(),
    b"\x1f\x8b\x08\x00",
    b"PAR1" * 3,
    b"GGUF",
    b"\n" * 50,
]
MARK = "__raw__"
BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error, sqlite3.Error)


def places(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every path to a value within JSON; of long lists and objects only the first ones."""
    yield prefix
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())[:40]
    elif isinstance(content, list):
        items = list(enumerate(content))[:5]
    for key, value in items:
        yield from places(value, (*prefix, key))


def change_json(draw: random.Random, text: str) -> str:
    """Replace, remove, rename, repeat or add one value."""
    content = json.loads(text)
    path = draw.choice([place for place in places(content) if place] or [()])
    if not path:
        return json.dumps(draw.choice(VALUES))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    kind, last = draw.random(), path[-1]
    if kind < 0.12:
        del holder[last]
    elif kind < 0.2 and isinstance(holder, dict):
        holder[draw.choice(["", "x" * 300, TITLE, "__class__", "weight", "format", *map(str, holder)])] = holder.pop(
            last
        )
    elif kind < 0.26 and isinstance(holder, list):
        holder *= draw.choice([0, 2, 100])
    elif kind < 0.4:
        holder[last] = MARK
        return json.dumps(content).replace(f'"{MARK}"', draw.choice(RAW))
    else:
        holder[last] = draw.choice(VALUES)
    return json.dumps(content, ensure_ascii=draw.random() < 0.5)


def change_lines(draw: random.Random, text: str) -> str:
    """Change one line of JSONL, or their order and number."""
    lines = text.splitlines()
    number, kind = draw.randrange(len(lines)), draw.random()
    if kind < 0.7:
        lines[number] = change_json(draw, lines[number])
    elif kind < 0.8:
        lines[number] = draw.choice([*RAW, json.dumps(draw.choice(VALUES))])
    else:
        lines = lines * draw.choice([0, 2, 50]) if kind < 0.9 else lines[:number]
    return draw.choice(["\n", "\n", "\n", "\r\n", "\n\n", " "]).join(lines) + draw.choice(["\n", ""])


def change_text(draw: random.Random, text: str) -> str:
    """Change one line or word of YAML, CSV, Jinja or plain text."""
    lines = text.split("\n")
    number, kind = draw.randrange(len(lines)), draw.random()
    value = draw.choice(VALUES)
    said = draw.choice([value if isinstance(value, str) else json.dumps(value), *RAW])
    if kind < 0.5 and (parts := lines[number].split(draw.choice([": ", ",", " "]))):
        lines[number] = lines[number].replace(parts[-1] or "\0", said, 1)
    elif kind < 0.6:
        lines[number] = said
    elif kind < 0.7:
        lines.insert(number, draw.choice([*lines, f"{said}: {said}", f"a: &a [{said}]", "b: &b [*a, *a, *a]", "\t"]))
    elif kind < 0.8:
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        lines += (bomb + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))).split("\n")
    elif kind < 0.9:
        del lines[number]
    else:
        lines *= draw.choice([0, 2, 30])
    return "\n".join(lines)


def change_bytes(draw: random.Random, data: bytes) -> bytes:
    """Cut, empty, overwrite or replace."""
    kind = draw.random()
    if kind < 0.3:
        return data[: draw.randrange(len(data) + 1)]
    if kind < 0.75 and data:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 3, 20])):
            changed[draw.randrange(min(len(data), draw.choice([64, 4096, len(data)])))] = draw.randrange(256)
        return bytes(changed)
    place = draw.randrange(len(data) + 1)
    return draw.choice([b"", draw.choice(BYTES), data[:place] + draw.choice(BYTES) + data[place:]])


def change_safetensors(draw: random.Random, data: bytes) -> bytes:
    """Another shape, type, place, name or length in the header, or other numbers."""
    length = struct.unpack("<Q", data[:8])[0]
    text, body = data[8 : 8 + length].decode(), data[8 + length :]
    kind = draw.random()
    if kind < 0.6:
        text = change_json(draw, text)
    elif kind < 0.8:
        body = draw.choice([body[: len(body) // 2], b"\xff" * len(body), b"\x00" * len(body), body + b"\x00" * 7])
    said = draw.choice([0, 3, 2**31, 2**40, 2**63, 2**64 - 1]) if kind > 0.9 else len(text.encode())
    return struct.pack("<Q", said) + text.encode("utf-8", "surrogatepass") + body


def change_gguf(draw: random.Random, data: bytes) -> bytes:
    """Other numbers where counts, lengths and kinds stand."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 4])):
        place = draw.choice([4, 8, 16, 24, draw.randrange(24, min(len(data), 3000))])
        number = draw.choice([0, 1, 2**16, 2**31, 2**40, 2**63, 2**64 - 1])
        changed[place : place + 8] = struct.pack("<Q", number)
    return bytes(changed)


def change_database(draw: random.Random, file: Path) -> None:
    """Put a value of another kind into a table, or change its columns."""
    connection = sqlite3.connect(file)
    column = draw.choice(["timestamp", "warmth", "clarity", "stability", "presence", "sensors"])
    numbers = (2**63 - 1, -(2**63), 10**18, 253402300800, 1e300, 1e15, float("inf"), b"\xff", None, "", "x", -1)
    value = draw.choice([*numbers, *(text for text in VALUES if isinstance(text, str) and "\ud800" not in text)])
    rows = draw.choice(["", "WHERE id = 7", "WHERE id % 2"])
    if draw.random() < 0.85:
        connection.execute(f"UPDATE state_history SET {column} = ? {rows}", (value,))
    else:
        connection.execute(
            draw.choice([f"ALTER TABLE state_history DROP COLUMN {column}", "DELETE FROM state_history"])
        )
    connection.commit()
    connection.close()


def change_kind(draw: random.Random, file: Path) -> str:
    """Put something in a file's place that is no file, or nothing."""
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    kind = draw.choice(["pipe", "zero", "directory", "nothing", "circle", "nowhere", "empty"])
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind != "nothing":
        file.symlink_to({"zero": "/dev/zero", "circle": str(file), "nowhere": "/nowhere"}[kind])
    return kind


def _rewritten(change: Callable[[random.Random, str], str]) -> Callable[[random.Random, Path], None]:
    def apply(draw: random.Random, file: Path) -> None:
        file.write_bytes(change(draw, file.read_text(encoding="utf-8")).encode("utf-8", "surrogatepass"))

    return apply


def _rewritten_bytes(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, Path], None]:
    return lambda draw, file: file.write_bytes(change(draw, file.read_bytes()))  # type: ignore[func-returns-value]


BY_SUFFIX = {
    ".json": _rewritten(change_json),
    ".jsonl": _rewritten(change_lines),
    ".safetensors": _rewritten_bytes(change_safetensors),
    ".gguf": _rewritten_bytes(change_gguf),
    ".db": change_database,
}


def mutate(draw: random.Random, path: Path) -> str:
    """Change an input, a file or one file of a directory; return what was changed."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        return "nothing"
    file, kind = draw.choice(files), draw.random()
    name = file.name if file == path else str(file.relative_to(path.parent))
    if kind < 0.08:
        return f"{name}: {change_kind(draw, file)}"
    if kind < 0.2:
        file.write_bytes(change_bytes(draw, file.read_bytes()))
        return f"{name}: bytes"
    try:
        BY_SUFFIX.get(file.suffix, _rewritten(change_text))(draw, file)
    except (
        ValueError,
        LookupError,
        RecursionError,
        AttributeError,
        struct.error,
        sqlite3.Error,
    ):  # it is broken already
        file.write_bytes(change_bytes(draw, file.read_bytes()))
    return f"{name}: values"
