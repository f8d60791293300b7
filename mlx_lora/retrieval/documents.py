"""Documents: markdown, text, code and JSONL, split along headings into chunks that an embedder reads whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..user_files import MOST_TEXT, read_bytes
from .chunks import Chunk, Document
from .governance import redact
from .rows import read_rows

MARKDOWN = frozenset({".md", ".markdown", ".mdx"})
CODE = frozenset(
    {".ts", ".tsx", ".js", ".jsx", ".mjs", ".py", ".java", ".go", ".rs", ".c", ".h", ".cpp", ".cs", ".swift", ".kt"}
    | {".rb", ".sh", ".sql", ".css", ".scss", ".html", ".vue"}
)
TEXT = frozenset({".txt", ".rst", ".adoc", ".org", ".yaml", ".yml", ".toml", ".json", ".xml", ".csv"})
ROWS = frozenset({".jsonl"})
KNOWN = MARKDOWN | CODE | TEXT | ROWS
# Longest chunk with its headings, in the embedder's tokens (two more are its special ones), and in characters: a word
# of a thousand characters is a single unknown token.
MOST_TOKENS, MOST_HEADING_TOKENS, MOST_CHARACTERS = 254, 64, 4000

Counter = Callable[[Sequence[str]], list[int]]
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t#]*$")
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})")
_DECLARATION = re.compile(
    r"(?:export |default |declare |abstract |async |public |pub |final |static )*"
    r"(?:class|interface|function\*?|enum|type|namespace|const|def|func|fn|struct|impl|trait)\s+(\w{1,80})"
)
_DECORATION = re.compile(r"[*_`]{1,3}")


def find_documents(paths: Iterable[str | Path]) -> list[Path]:
    """Return files as given, and those of a known kind in directories; hidden ones and links are skipped there.

    Raises:
        UserError: there is no such file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            for folder, folders, files in os.walk(path, followlinks=False):
                folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "node_modules")
                places = (Path(folder, name) for name in sorted(files) if not name.startswith("."))
                found += [place for place in places if place.suffix.lower() in KNOWN and not place.is_symlink()]
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"{path}: there is no such file; check the path")
    return [Path(place) for place in dict.fromkeys(os.path.abspath(place) for place in found)]


def read_content(path: Path) -> bytes:
    """Return the content of a document.

    Raises:
        ValueError: why it cannot be used.
    """
    try:
        return read_bytes(path, MOST_TEXT)
    except OSError as error:
        raise ValueError(f"this file cannot be read ({error.strerror or error}); check it") from None


def decode(content: bytes) -> str:
    """Return the text of a document, its line ends as ``\\n``.

    Raises:
        ValueError: it is not UTF-8, or not text.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        raise ValueError("it holds NUL characters and is not text; leave it out")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_document(path: Path, content: bytes, count: Counter) -> Document:
    """Redact a document's e-mail addresses, and split it by the rules of its kind.

    Args:
        count: the embedder's number of tokens of each text.

    Raises:
        ValueError: why it cannot be used.
    """
    document = Document(str(path), hashlib.sha256(content).hexdigest(), redact(decode(content))[0], [])
    kind = path.suffix.lower()
    if kind in ROWS:
        sections: Iterable[Chunk] = read_rows(document)
    elif kind in MARKDOWN:
        body, document.front_matter, skipped = _front_matter(document.text)
        sections = _markdown_sections(body, skipped)
    elif kind in CODE:
        sections = _code_sections(document.text)
    else:
        sections = [Chunk(document.text)]
    document.chunks = list(_fitting(sections, count))
    return document


def document_of(
    path: str,
    parts: Sequence[tuple[str, dict[str, Any]]],
    count: Counter,
    metadata: Mapping[str, Any] | None = None,
) -> Document:
    """Make a document of texts with metadata that another store holds; what is too long is split.

    Args:
        path: the name under which the document is listed.
        metadata: of the document; as front matter does, it may hold flags of governance.
    """
    cleaned = [(redact(text.replace("\0", ""))[0], metadata) for text, metadata in parts]
    known = [path, *parts, *([dict(metadata)] if metadata else [])]
    content = json.dumps(known, ensure_ascii=False, default=str, sort_keys=True).encode("utf-8", "replace")
    document = Document(path, hashlib.sha256(content).hexdigest(), "\n".join(text for text, _ in cleaned), [])
    document.front_matter, document.metadata = dict(metadata or {}), dict(metadata or {})
    document.chunks = list(_fitting([Chunk(text, metadata=metadata) for text, metadata in cleaned], count))
    return document


def _front_matter(text: str) -> tuple[str, dict[str, Any], int]:
    """Return (rest, settings, lines skipped) of a text that may begin with YAML between ``---`` lines."""
    found = re.match(r"---[ \t]*\n(.{0,20000}?)\n---[ \t]*(?:\n|$)", text, re.S)
    if not found:
        return text, {}, 0
    import yaml

    try:
        settings = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return text, {}, 0
    if not isinstance(settings, dict):
        return text, {}, 0
    return text[found.end() :], settings, found[0].count("\n")


def _markdown_sections(text: str, skipped: int) -> Iterator[Chunk]:
    """Yield the sections of a markdown text with the path of their headings; ``#`` in fenced code is no heading."""
    path: dict[int, str] = {}
    lines: list[str] = []
    begin, fence = skipped + 1, ""
    for number, line in enumerate(text.split("\n"), skipped + 1):
        mark = _FENCE.match(line)
        if mark and (not fence or (mark[1][0] == fence[0] and len(mark[1]) >= len(fence))):
            fence = "" if fence else mark[1]
        heading = None if fence or mark else _HEADING.match(line)
        if heading:
            yield Chunk("\n".join(lines), tuple(path.values()), begin)
            level = len(heading[1])
            path = {depth: name for depth, name in path.items() if depth < level}
            path[level] = _DECORATION.sub("", heading[2]).strip()
            lines, begin = [], number + 1
        else:
            lines.append(line)
    yield Chunk("\n".join(lines), tuple(path.values()), begin)


def _code_sections(text: str) -> Iterator[Chunk]:
    """Yield the top-level declarations of a source file, each under its name; comments stay with what follows."""
    lines: list[str] = []
    begin, name = 1, ""
    for line in text.split("\n"):
        found = _DECLARATION.match(line)
        if found:
            kept = len(lines)
            while kept and re.match(r"\s*(?:\*|/\*|//|#|@)", lines[kept - 1]):
                kept -= 1
            yield Chunk("\n".join(lines[:kept]), (name,) if name else (), begin)
            lines, begin, name = lines[kept:], begin + kept, found[1]
        lines.append(line)
    yield Chunk("\n".join(lines), (name,) if name else (), begin)


def _fitting(sections: Iterable[Chunk], count: Counter) -> Iterator[Chunk]:
    """Yield numbered sections that hold text, long ones in parts that end at paragraphs, else at lines or words."""
    number = 0
    for section in sections:
        if not section.text.strip():
            continue
        section.headings = _short_headings(section.headings, count)
        most = MOST_TOKENS - (count([" > ".join(section.headings)])[0] if section.headings else 0)
        # Each line number stays with its text, since a citation names it.
        for line, text in _parts(section.text, section.line, count, most):
            yield Chunk(text, section.headings, line, {**section.metadata, "chunk_index": number})
            number += 1


def _short_headings(headings: tuple[str, ...], count: Counter) -> tuple[str, ...]:
    """Leave out the outer headings, and the end of a long one, where all of them leave no room for the text."""
    kept = tuple(name[:200] for name in headings if name)
    while len(kept) > 1 and count([" > ".join(kept)])[0] > MOST_HEADING_TOKENS:
        kept = kept[1:]
    while kept and count([" > ".join(kept)])[0] > MOST_HEADING_TOKENS:
        kept = (kept[0][: len(kept[0]) // 2],) if len(kept[0]) > 1 else ()
    return kept


def _parts(text: str, line: int, count: Counter, most: int) -> Iterator[tuple[int, str]]:
    """Yield (line, part) of a text, each part of at most ``most`` tokens."""
    blocks = list(_blocks(text, line, count, most, _SEPARATORS))
    held: list[str] = []
    begin, tokens, length = 0, 0, 0
    for number, block, size in blocks:
        if held and (tokens + size > most or length + len(block) > MOST_CHARACTERS):
            yield begin, "".join(held).strip("\n").rstrip()
            held, tokens, length = [], 0, 0
        if not held:
            if not block.strip():
                continue
            begin = number + len(block) - len(block.lstrip("\n"))
        held.append(block)
        tokens, length = tokens + size, length + len(block)
    if held:
        yield begin, "".join(held).strip("\n").rstrip()


# Borders from the best to the worst: paragraphs, lines, ends of sentences, words, then halves.
_SEPARATORS = (r"(?<=\n)(?=[ \t]*\n)", r"(?<=\n)", r"(?<=[.!?;]\s)", r"(?<=\s)")


def _blocks(
    text: str, line: int, count: Counter, most: int, separators: tuple[str, ...]
) -> Iterator[tuple[int, str, int]]:
    """Yield (line, block, tokens): the text cut at the first separator, what is too long at the next ones."""
    pieces = re.split(separators[0], text) if separators else [text[: len(text) // 2], text[len(text) // 2 :]]
    for piece, size in zip(pieces, count(pieces), strict=True):
        if piece and (size > most or len(piece) > MOST_CHARACTERS) and len(piece) > 1:
            yield from _blocks(piece, line, count, most, separators[1:])
        elif piece:
            yield line, piece, size
        line += piece.count("\n")
