"""The server's database: one SQLite file (WAL) with uploaded files, jobs and events.

A record is a row of its id, the columns that are searched, and the whole as JSON. Every method is one transaction, and
may be called from any thread.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..files import FORMAT, writing
from .records import Job, JobEvent, NewEvent, Status, UploadedFile, new_id

DATABASE = "state.db"
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, status TEXT NOT NULL,
    content TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE TABLE IF NOT EXISTS events (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, job_id TEXT NOT NULL,
    created_at REAL NOT NULL, level TEXT NOT NULL, type TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL,
    key TEXT NOT NULL, UNIQUE (job_id, key));
CREATE INDEX IF NOT EXISTS events_by_job ON events (job_id, sequence);
"""
Record = TypeVar("Record", UploadedFile, Job)


class State:
    """Open database of a server."""

    def __init__(self, directory: Path) -> None:
        """Open or create it.

        Raises:
            UserError: the file cannot be opened, is no database, or is of a later version.
        """
        self.file = directory / DATABASE
        self._lock, self._reading = threading.RLock(), threading.Lock()
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._connection = self._connect()
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise UserError(f"{self.file}: this was written by a later version of mlx-lora; update mlx-lora")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(SCHEMA)
            self._connection.execute(f"PRAGMA user_version={FORMAT}")
            # Readers have one of their own, so that no request waits until another's commit is on the disk.
            self._reader = self._connect()
        except sqlite3.Error as error:
            raise UserError(f"{self.file}: this database cannot be opened ({error}); move it away") from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, check_same_thread=False, isolation_level=None, timeout=10)

    def close(self) -> None:
        """Close the file."""
        with self._reading, self._lock:
            self._reader.close()
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                # SQLite may have done so already, on a full disk.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file)) from error
                raise

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._reader.execute(statement, values).fetchall()

    # Files

    def add_file(self, file: UploadedFile) -> None:
        """Record an uploaded file, whose bytes are in place."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO files (id, content) VALUES (?, ?)", (file.id, _text(file)))

    def find_file(self, identity: str) -> UploadedFile | None:
        """Return the file of an id."""
        rows = self._rows("SELECT content FROM files WHERE id = ?", (identity,))
        return _record(UploadedFile, rows[0][0]) if rows else None

    def list_files(self) -> list[UploadedFile]:
        """Return all files, the newest first."""
        rows = self._rows("SELECT content FROM files ORDER BY number DESC")
        return [_record(UploadedFile, content) for (content,) in rows]

    def delete_file(self, identity: str) -> bool:
        """Forget a file; False: there is none."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM files WHERE id = ?", (identity,)).rowcount > 0

    # Jobs

    def add_job(self, job: Job, events: Sequence[NewEvent] = ()) -> None:
        """Record a new job, with its first events."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO jobs (id, status, content) VALUES (?, ?, ?)", (job.id, job.status, _text(job))
            )
            _insert_events(connection, job.id, events)

    def find_job(self, identity: str) -> Job | None:
        """Return the job of an id."""
        rows = self._rows("SELECT content FROM jobs WHERE id = ?", (identity,))
        return _record(Job, rows[0][0]) if rows else None

    def list_jobs(self, statuses: Sequence[Status] | None = None, limit: int = -1) -> list[Job]:
        """Return the jobs of some statuses, or all, the oldest first; ``limit`` of -1 is none."""
        chosen = "" if statuses is None else f"WHERE status IN ({','.join('?' * len(statuses))})"
        rows = self._rows(f"SELECT content FROM jobs {chosen} ORDER BY number LIMIT ?", (*(statuses or ()), limit))
        return [_record(Job, content) for (content,) in rows]

    def job_ids(self, status: Status) -> list[str]:
        """Return the ids of the jobs of a status, the oldest first."""
        return [
            identity for (identity,) in self._rows("SELECT id FROM jobs WHERE status = ? ORDER BY number", (status,))
        ]

    def count_jobs(self, statuses: Sequence[Status]) -> int:
        """Return the number of jobs of some statuses."""
        marks = ",".join("?" * len(statuses))
        return self._rows(f"SELECT COUNT(*) FROM jobs WHERE status IN ({marks})", tuple(statuses))[0][0]

    def update_job(
        self,
        identity: str,
        only_if: Sequence[Status] | None = None,
        events: Sequence[NewEvent] = (),
        **changes: Any,
    ) -> Job | None:
        """Change fields of a job and record events of it, if its status is one of ``only_if``.

        Returns:
            The job as it is now; ``None`` where it was not changed.
        """
        with self._transaction() as connection:
            row = connection.execute("SELECT content FROM jobs WHERE id = ?", (identity,)).fetchone()
            job = None if row is None else _record(Job, row[0])
            if job is None or (only_if is not None and job.status not in only_if):
                return None
            job = replace(job, **changes)
            connection.execute(
                "UPDATE jobs SET status = ?, content = ? WHERE id = ?", (job.status, _text(job), identity)
            )
            _insert_events(connection, identity, events)
            return job

    # Events

    def add_events(self, job_id: str, events: Sequence[NewEvent]) -> int:
        """Record events of a job, and return the number of those that were not there already."""
        with self._transaction() as connection:
            return _insert_events(connection, job_id, events)

    def list_events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """Return events of a job with a higher sequence than ``after``, the oldest first."""
        return self._events("job_id = ? AND sequence > ? ORDER BY sequence LIMIT ?", (job_id, after, limit))

    def newest_events(self, job_id: str, before: int | None = None, limit: int = 20) -> list[JobEvent]:
        """Return the last events of a job, or the last with a lower sequence than ``before``, the newest first."""
        lower = 2**63 - 1 if before is None else before
        return self._events("job_id = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?", (job_id, lower, limit))

    def find_event(self, job_id: str, identity: str) -> JobEvent | None:
        """Return the event of an id, if it is one of the job's."""
        return next(iter(self._events("job_id = ? AND id = ?", (job_id, identity))), None)

    def _events(self, condition: str, values: Sequence[Any]) -> list[JobEvent]:
        names = [field.name for field in fields(JobEvent)]
        rows = self._rows(f"SELECT {', '.join(names)} FROM events WHERE {condition}", values)
        found = [dict(zip(names, row, strict=True)) for row in rows]
        return [JobEvent(**{**event, "data": json.loads(event["data"])}) for event in found]


def _insert_events(connection: sqlite3.Connection, job_id: str, events: Sequence[NewEvent]) -> int:
    rows = [
        (new_id("ftevent"), job_id, event.created_at, event.level, event.type, event.message, event.text, event.key)
        for event in events
    ]
    statement = (
        "INSERT OR IGNORE INTO events (id, job_id, created_at, level, type, message, data, key) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    return connection.executemany(statement, rows).rowcount if rows else 0


def _text(record: Any) -> str:
    return json.dumps(asdict(record), ensure_ascii=False)


def _record(kind: type[Record], content: str) -> Record:
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in json.loads(content).items() if key in known})
