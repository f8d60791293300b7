"""SQLite store of an index: documents, chunks, metadata and full text; readers see complete documents only."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line, shortened
from ..files import FORMAT, check_format, writing
from .chunks import Document
from .text_query import words_of

DATABASE = "index.db"
# Seconds to wait for a lock of SQLite's own, which is held for a transaction only.
LOCK_TIMEOUT_S = 30
# `vectors` is the number in the vector file's name, `rows` how many of its rows count, `deletions` grows with every
# removal of a chunk, `changes` with every change of a document.
_SETTINGS = {"format": FORMAT, "embedder": "", "dimension": 0, "vectors": 1, "rows": 0, "deletions": 0, "changes": 0}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, collection TEXT NOT NULL, sha256 TEXT NOT NULL,
    retrievable INTEGER NOT NULL, metadata TEXT NOT NULL, UNIQUE (path, collection)
);
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents (id), line INTEGER NOT NULL,
    headings TEXT NOT NULL, text TEXT NOT NULL, words TEXT NOT NULL, metadata TEXT NOT NULL, row INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_of_document ON chunks (document);
CREATE VIRTUAL TABLE IF NOT EXISTS chunks_fts USING fts5 (
    headings, text, words, content='chunks', content_rowid='id', tokenize="unicode61 remove_diacritics 2"
);
CREATE VIRTUAL TABLE IF NOT EXISTS chunks_words USING fts5vocab (chunks_fts, 'row');
CREATE TRIGGER IF NOT EXISTS chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO chunks_fts (rowid, headings, text, words)
    VALUES (new.id, new.headings, new.text, new.words);
END;
CREATE TRIGGER IF NOT EXISTS chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO chunks_fts (chunks_fts, rowid, headings, text, words)
    VALUES ('delete', old.id, old.headings, old.text, old.words);
END;
"""


def check_place(directory: Path) -> None:
    """Raise UserError if a directory holds files that are not an index's."""
    if not directory.is_dir():
        return
    with writing(directory):
        others = [entry.name for entry in os.scandir(directory) if not entry.name.startswith((".", DATABASE))]
    if others:
        raise UserError(f"{directory}: this holds other files ({others[0][:60]}) and is not an index; choose another")


class Store:
    """The database of an index; one object may be used from several threads, one at a time."""

    def __init__(self, directory: Path, readonly: bool = False, create: bool = True) -> None:
        self.directory, self.file = directory, directory / DATABASE
        self.lock = threading.RLock()
        if not self.file.is_file():
            if not create:
                raise UserError(f"{directory}: this is not an index; `mlx-lora index add` makes one")
            check_place(directory)
            with writing(directory):
                directory.mkdir(parents=True, exist_ok=True)
        with self._sentences():
            self._connection = self._connect(readonly)
            # No table: another process has created the file and not filled it yet.
            empty = readonly and not self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        if empty:
            raise UserError(f"{directory}: this index is empty; `mlx-lora index add` fills it")
        with self._sentences():
            check_format(self.settings(), self.file)

    def _connect(self, readonly: bool) -> sqlite3.Connection:
        mode = "ro" if readonly else "rwc"
        # A reader writes the shared memory file beside the database; where it cannot, nobody else can write either.
        frozen = readonly and not os.access(self.directory, os.W_OK) and not Path(f"{self.file}-wal").exists()
        address = f"{self.file.resolve().as_uri()}?mode={mode}{'&immutable=1' if frozen else ''}"
        connection = sqlite3.connect(
            address, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        if not readonly:
            connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a removed vector file must not outlive, by a power cut, the commit that made it useless.
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", _SETTINGS.items())
        return connection

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        # A damaged file may also lack what its other tables name, or hold texts and metadata that are none.
        except (sqlite3.Error, LookupError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.file}: this index cannot be used ({first_line(error)}); if it is damaged, remove its "
                "directory and add the documents again"
            ) from error

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Hold one state of the database while the block runs; what it writes is committed whole or not at all.

        Raises:
            UserError: SQLite refuses.
        """
        with self.lock, self._sentences():
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _query(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self.lock, self._sentences():
            return self._connection.execute(query, values).fetchall()

    def settings(self) -> dict[str, Any]:
        """Return the index's settings by name."""
        return dict(self._query("SELECT name, value FROM settings"))

    def change_settings(self, **values: Any) -> None:
        """Replace settings, inside a transaction."""
        self._connection.executemany(
            "UPDATE settings SET value = ? WHERE name = ?", [(v, n) for n, v in values.items()]
        )

    def vector_file(self, number: int) -> Path:
        """Return the path of a vector file."""
        return self.directory / f"vectors-{number}.f32"

    def remove_stale_vectors(self, current: int) -> None:
        """Remove the vector files that a replaced index or an interrupted rewrite has left."""
        for entry in os.scandir(self.directory):
            found = re.fullmatch(r"vectors-(\d+)\.f32", entry.name)
            if found and int(found[1]) != current:
                os.unlink(entry.path)

    def put_document(self, document: Document, collection: str, metadata: Mapping[str, Any], first_row: int) -> None:
        """Insert a document whose vectors start at ``first_row``, replacing its earlier state; inside a transaction."""
        self.delete_documents([n for (n,) in self._ids(document.path, collection)])
        number = self._connection.execute(
            "INSERT INTO documents (path, collection, sha256, retrievable, metadata) VALUES (?, ?, ?, ?, ?)",
            (document.path, collection, document.sha256, metadata["ok_to_retrieve"], _json(metadata)),
        ).lastrowid
        rows = [
            (
                number,
                chunk.line,
                " > ".join(chunk.headings),
                chunk.text,
                words_of(chunk.text),
                _json(chunk.metadata),
                row,
            )
            for row, chunk in enumerate(document.chunks, first_row)
        ]
        self._connection.executemany(
            "INSERT INTO chunks (document, line, headings, text, words, metadata, row) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._connection.execute("UPDATE settings SET value = value + 1 WHERE name = 'changes'")

    def _ids(self, path: str, collection: str) -> list[tuple[int]]:
        found = "SELECT id FROM documents WHERE path = ? AND collection = ?"
        return self._query(found, (path, collection))

    def delete_documents(self, numbers: Sequence[int]) -> None:
        """Delete documents with their chunks, inside a transaction; their vectors' rows are dead from then on."""
        for number in numbers:
            gone = self._connection.execute("DELETE FROM chunks WHERE document = ?", (number,)).rowcount
            self._connection.execute("DELETE FROM documents WHERE id = ?", (number,))
            self._connection.execute("UPDATE settings SET value = value + ? WHERE name = 'deletions'", (max(gone, 1),))
        if numbers:
            self._connection.execute("UPDATE settings SET value = value + 1 WHERE name = 'changes'")

    def move_document(self, number: int, collection: str, metadata: Mapping[str, Any]) -> None:
        """Put a document into another collection with other metadata, inside a transaction."""
        path = self._query("SELECT path FROM documents WHERE id = ?", (number,))[0][0]
        self.delete_documents([other for (other,) in self._ids(path, collection) if other != number])
        change = "UPDATE documents SET collection = ?, metadata = ? WHERE id = ?"
        self._connection.execute(change, (collection, _json(metadata), number))
        # Counted as a deletion, after which readers read the collections anew.
        grow = "UPDATE settings SET value = value + 1 WHERE name IN ('changes', 'deletions')"
        self._connection.execute(grow)

    def hash_of(self, path: str, collection: str) -> str | None:
        """Return the sha256 of a document as it was indexed, None if it is not."""
        found = "SELECT sha256 FROM documents WHERE path = ? AND collection = ?"
        rows = self._query(found, (path, collection))
        return rows[0][0] if rows else None

    def chunk_rows(self, after: int) -> list[tuple[int, int, str | None]]:
        """Return (chunk, row, collection) of the chunks with a higher number; no collection if not to be retrieved."""
        return self._query(
            "SELECT c.id, c.row, CASE WHEN d.retrievable THEN d.collection END FROM chunks c "
            "JOIN documents d ON d.id = c.document WHERE c.id > ?",
            (after,),
        )

    def chunks_with_text(self, after: int, limit: int) -> list[tuple[int, int, str, str]]:
        """Return the next (chunk, row, headings, text) by number."""
        return self._query(
            "SELECT id, row, headings, text FROM chunks WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )

    def chunks_where(self, where: Mapping[str, Any]) -> list[int]:
        """Return the chunks whose metadata, or whose document's, has each of the values; of a list, any of them.

        Raises:
            UserError: a name or a value that metadata cannot have.
        """
        conditions, values = [], []
        for name, value in where.items():
            wanted = list(value) if isinstance(value, (list, tuple)) else [value]
            if '"' in name or not all(isinstance(item, (str, int, float)) for item in wanted):
                raise UserError(
                    f"{shortened(name)}: {shortened(value)} cannot be searched for; use texts, numbers or true"
                )
            # json_each yields the elements of a list, and a single value as it is.
            marks = ", ".join("?" * len(wanted))
            either = [f"EXISTS (SELECT 1 FROM json_each({t}.metadata, ?) j WHERE j.value IN ({marks}))" for t in "cd"]
            conditions.append(f"({' OR '.join(either)})")
            values += [f'$."{name}"', *wanted] * 2
        found = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document WHERE "
        return [number for (number,) in self._query(found + " AND ".join(conditions), values)]

    def document_count(self, word: str) -> int:
        """Return the number of chunks that hold a word, as the full text has it."""
        rows = self._query("SELECT doc FROM chunks_words WHERE term = ?", (word,))
        return rows[0][0] if rows else 0

    def match(self, expression: str, limit: int | None) -> list[tuple[int, float]]:
        """Return (chunk, bm25) of the best matches of a full-text expression; lower is better."""
        return self._query(
            "SELECT rowid, rank FROM chunks_fts WHERE chunks_fts MATCH ? ORDER BY rank, rowid LIMIT ?",
            (expression, -1 if limit is None else limit),
        )

    def chunk(self, number: int) -> tuple[str, str, int, str, dict[str, Any], str]:
        """Return (text, headings, line, path, metadata, collection) of a chunk."""
        text, headings, line, own, path, whole, collection = self._query(
            "SELECT c.text, c.headings, c.line, c.metadata, d.path, d.metadata, d.collection FROM chunks c "
            "JOIN documents d ON d.id = c.document WHERE c.id = ?",
            (number,),
        )[0]
        return text, headings, line, path, {**json.loads(whole), **json.loads(own)}, collection

    def documents(self) -> list[tuple[int, str, str, int, dict[str, Any]]]:
        """Return (number, path, collection, chunks, metadata) of every document, by collection and path."""
        rows = self._query(
            "SELECT d.id, d.path, d.collection, (SELECT COUNT(*) FROM chunks c WHERE c.document = d.id), d.metadata "
            "FROM documents d ORDER BY d.collection, d.path"
        )
        return [(*row[:4], json.loads(row[4])) for row in rows]

    def chunk_count(self) -> int:
        """Return the number of chunks."""
        return self._query("SELECT COUNT(*) FROM chunks")[0][0]

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            self._connection.close()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
