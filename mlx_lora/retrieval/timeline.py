"""Timeline of PDCAs: ``pdca_timeline.db``, derived from the index, with a quality score and what precedes what."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..files import writing

FILE = "pdca_timeline.db"
_COLUMNS = (
    *("id", "agent_name", "agent_role", "date", "timestamp", "session_id", "branch", "sprint", "cmm_level"),
    *("task_type", "objective", "quality_score", "verification_status", "file_path"),
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pdcas (
    id TEXT PRIMARY KEY, agent_name TEXT, agent_role TEXT, date TEXT, timestamp INTEGER, session_id TEXT, branch TEXT,
    sprint TEXT, cmm_level INTEGER, task_type TEXT, objective TEXT, quality_score REAL, verification_status TEXT,
    file_path TEXT
);
CREATE TABLE IF NOT EXISTS pdca_relationships (
    from_pdca_id TEXT NOT NULL, to_pdca_id TEXT NOT NULL, relationship_type TEXT NOT NULL, weight REAL, metadata TEXT,
    UNIQUE (from_pdca_id, to_pdca_id, relationship_type)
);
CREATE INDEX IF NOT EXISTS pdcas_by_time ON pdcas (timestamp);
"""
# Weight of "precedes" by what says so: the document's own link, the same session, or the clock alone.
_WEIGHTS = {"link": 1.0, "session": 0.8, "time": 0.5}


def quality_score(metadata: dict[str, Any]) -> float:
    """Return 50, and 10 for each CMM level above 1, 20 if complete, 10 for dual links; at most 100."""
    score = 50 + 10 * (max(1, metadata.get("cmm_level", 1)) - 1)
    score += 20 * (metadata.get("verification_status") == "complete") + 10 * bool(metadata.get("dual_links"))
    return float(min(score, 100))


def update_timeline(directory: Path, changes: int, documents: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Write the timeline of an index's PDCAs anew, in one transaction, unless it is of this very state.

    Args:
        changes: the index's number of changes, which the file keeps as its ``user_version``.
        documents: (path, metadata) of each document of ``pdca_historical``.

    Raises:
        UserError: the file cannot be written.
    """
    file = directory / FILE
    try:
        with writing(file):
            connection = sqlite3.connect(file, timeout=30, isolation_level=None)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == changes:
                return
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} DELETE FROM pdcas; DELETE FROM pdca_relationships;")
            rows = [_row(path, metadata) for path, metadata in documents]
            marks = ", ".join("?" * len(_COLUMNS))
            connection.executemany(f"INSERT OR REPLACE INTO pdcas ({', '.join(_COLUMNS)}) VALUES ({marks})", rows)
            connection.executemany(
                "INSERT OR IGNORE INTO pdca_relationships VALUES (?, ?, 'PRECEDES', ?, ?)",
                [(*pair, _WEIGHTS[by], json.dumps({"by": by})) for *pair, by in _precedes([m for _, m in documents])],
            )
            connection.execute(f"PRAGMA user_version = {changes % 2**31}")
            connection.execute("COMMIT")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UserError(
            f"{file}: the timeline cannot be written ({first_line(error)}); remove it, it is made anew"
        ) from error


class Timeline:
    """The timeline of an index as it was last written; ``redis_store.RedisTimeline`` answers the same questions."""

    def __init__(self, directory: Path) -> None:
        """Open the timeline read-only.

        Raises:
            UserError: the index has none.
        """
        self.file = directory / FILE
        if not self.file.is_file():
            raise UserError(f"{self.file}: there is no timeline; `mlx-lora index add` makes it")

    def pdcas(self) -> list[dict[str, Any]]:
        """Return the PDCAs in order of time."""
        return self._read(f"SELECT {', '.join(_COLUMNS)} FROM pdcas ORDER BY timestamp, id", ())

    def relationships(self) -> list[dict[str, Any]]:
        """Return what precedes what."""
        return self._read("SELECT * FROM pdca_relationships ORDER BY from_pdca_id, to_pdca_id", ())

    def after(self, pdca: str) -> list[str]:
        """Return the PDCAs that a PDCA precedes, the surest first."""
        found = "SELECT to_pdca_id FROM pdca_relationships WHERE from_pdca_id = ? ORDER BY weight DESC, 1"
        return [row["to_pdca_id"] for row in self._read(found, (pdca,))]

    def before(self, pdca: str) -> list[str]:
        """Return the PDCAs that precede a PDCA, the surest first."""
        found = "SELECT from_pdca_id FROM pdca_relationships WHERE to_pdca_id = ? ORDER BY weight DESC, 1"
        return [row["from_pdca_id"] for row in self._read(found, (pdca,))]

    def _read(self, query: str, values: tuple[str, ...]) -> list[dict[str, Any]]:
        try:
            connection = sqlite3.connect(f"{self.file.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
            try:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(query, values)]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise UserError(f"{self.file}: the timeline cannot be read ({first_line(error)}); remove it") from error


def _row(path: str, metadata: dict[str, Any]) -> list[Any]:
    values = {**metadata, "id": metadata["pdca_id"], "file_path": path, "quality_score": quality_score(metadata)}
    return [values.get(name, "") for name in _COLUMNS]


def _precedes(documents: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield (earlier, later, by): a document's own link first, then neighbours in time."""
    by_name = {metadata["pdca_id"]: metadata for metadata in documents}
    for metadata in documents:
        named = metadata.get("previous", "").removesuffix(".md").removesuffix(".pdca")
        if named in by_name and named != metadata["pdca_id"]:
            yield named, metadata["pdca_id"], "link"
    dated = sorted((m for m in by_name.values() if m["timestamp"]), key=lambda m: (m["timestamp"], m["pdca_id"]))
    for earlier, later in pairwise(dated):
        same = earlier["session_id"] and earlier["session_id"] == later["session_id"]
        yield earlier["pdca_id"], later["pdca_id"], "session" if same else "time"
