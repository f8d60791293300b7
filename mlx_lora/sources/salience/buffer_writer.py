"""Experience buffer writer: locked, atomic, and without losing records of other programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import file_lock, write_atomic, writing
from .buffer import decode_json, read_bytes, rows_of
from .schema import Experience, parse_experience

LOCK_TIMEOUT_S = 60
# The end of a list in a file written here or by json.dump(indent=2); new records are inserted before it.
END = b"\n]"


class BufferStore:
    """Experience buffer on disk that several programs append to.

    Every program that writes holds ``.NAME.lock`` beside the file; the file itself is replaced, so that a reader
    needs no lock and finds it complete at every moment. What the file holds is never dropped or changed, not even
    rows that we cannot use. Records are appended as text, and what is already known is not parsed again: adding to
    a buffer of some MB takes milliseconds.

    Attributes:
        path: the file, symbolic links resolved; it need not exist yet.
        ids: of all records known so far.
    """

    def __init__(self, path: str | Path):
        try:
            self.path = Path(path).expanduser().resolve()
            loop = self.path.is_symlink()
        except RuntimeError:
            loop = True
        if loop:
            raise UserError(f"{path}: its symbolic links lead in a circle; correct them, or give another path")
        self.ids: set[str] = set()
        self._known = b""  # the file's content up to END, as of the last read
        self._document: Any = []  # the whole content, where it has no such end

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the buffer against other writers while the block runs.

        Raises:
            UserError: the directory cannot be written, or another program keeps the lock.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        held = (
            f"{self.path}: another program has kept it locked for {LOCK_TIMEOUT_S} seconds; try again when that is done"
        )
        with file_lock(self.path.with_name(f".{self.path.name}.lock"), held, LOCK_TIMEOUT_S):
            yield

    def refresh(self) -> list[Experience]:
        """Return the usable experiences that were added since the last read, in the file's order.

        Raises:
            UserError: the file exists and is not a readable buffer.
        """
        content = read_bytes(self.path) if self.path.exists() else b""
        appended = self._appended(content)
        if appended is None:
            self._document = decode_json(self.path, content) if content.strip() else []
            appended = rows_of(self.path, self._document)
            appendable = isinstance(self._document, list) and self._document and content.endswith(END)
            self._known = content[: -len(END)] if appendable else b""
        return self._remember(appended)

    def _appended(self, content: bytes) -> list[Any] | None:
        """Return the appended rows if the file has only grown at its end."""
        if not self._known or not content.startswith(self._known) or not content.endswith(END):
            return None
        new = content[len(self._known) : -len(END)]
        try:
            rows = json.loads(b"[" + new.removeprefix(b",") + b"]")
        except (ValueError, RecursionError):
            return None
        self._known = content[: -len(END)]
        return rows

    def _remember(self, rows: Iterable[Any]) -> list[Experience]:
        found = []
        for row in rows:
            try:
                experience = parse_experience(row)
            except ValueError:
                continue
            if experience["id"] not in self.ids:
                self.ids.add(experience["id"])
                found.append(experience)
        return found

    def append(self, records: Iterable[Experience]) -> list[Experience]:
        """Append the records whose ids are new, and return them; call it with the lock held, after ``refresh``.

        Raises:
            UserError: a record cannot be written as JSON, or the file system refuses; the file is unchanged then.
        """
        new = {record["id"]: record for record in records if record["id"] not in self.ids}
        if not new:
            return []
        try:
            texts = [json.dumps(record, indent=2, allow_nan=False) for record in new.values()]
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path}: an experience holds what JSON cannot ({error}); its metadata and tool calls "
                "must be plain values"
            ) from None
        lines = [b"\n  " + text.replace("\n", "\n  ").encode("ascii") for text in texts]
        if self._known:
            known = self._known + b"," + b",".join(lines)
            self._replace(known + END)
            self._known = known
        else:
            self._rewrite(list(new.values()))
        self.ids.update(new)
        return list(new.values())

    def _rewrite(self, records: list[Experience]) -> None:
        rows_of(self.path, self._document).extend(records)
        content = json.dumps(self._document, indent=2).encode("ascii")
        self._replace(content)
        if isinstance(self._document, list):
            self._known = content[: -len(END)]

    def _replace(self, content: bytes) -> None:
        write_atomic(self.path, content)


def merge_buffers(records: Iterable[Experience], into: str | Path) -> list[Experience]:
    """Append to the buffer ``into`` the records that it lacks; return those."""
    store = BufferStore(into)
    with store.locked():
        store.refresh()
        return store.append(records)
