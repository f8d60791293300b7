"""History of an adapter's generations: an append-only log of JSON lines, each with the sha256 of the line before it.

A line is written before what it says is done, and holds all refs after its event, so that a killed process leaves the
state of the line before or that of its own (:meth:`~mlx_lora.runs.generations.Generations.recover`).
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import FORMAT, check_format, fsync_path, writing
from ..user_files import read_bytes
from .refs import Refs

HISTORY = "history.jsonl"
MOST_BYTES = 2**28


@dataclass
class History:
    """Lines of a history, up to the first broken one.

    Attributes:
        size: bytes of these lines; what is after them in the file was torn by a kill or a power cut, and never counted.
        tail: sha256 of the last line, without its newline.
        broken: the sentence on the first broken line, if there is one.
    """

    file: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    tail: str = ""
    broken: str | None = None
    _before: tuple[int, str] = (0, "")

    @classmethod
    def read(cls, file: Path) -> History:
        """Read a history; one that does not exist is empty.

        Raises:
            UserError: a later version's format, or a file that cannot be read.
        """
        history = cls(file)
        try:
            parts = read_bytes(file, MOST_BYTES).split(b"\n")
        except FileNotFoundError:
            return history
        except OSError as error:
            raise UserError(
                f"{file}: this history cannot be read ({error.strerror or error}); check the path"
            ) from error
        # After the last newline there is nothing, or a torn line.
        for text in parts[:-1]:
            reason = history._add(text)
            if reason == "is not JSON" and len(history.lines) == len(parts) - 2 and not parts[-1]:
                break
            if reason:
                history.broken = (
                    f"{file}, line {len(history.lines) + 1}: the chain is broken, this line {reason}; put the file "
                    "back from a copy, or rename it: the next command starts a new one from the refs"
                )
                break
        return history

    def check(self) -> History:
        """Return the history; raise UserError if its chain is broken."""
        if self.broken:
            raise UserError(self.broken)
        return self

    @property
    def refs(self) -> Refs:
        """Refs after the last event."""
        return (Refs.of_line(self.lines[-1]) if self.lines else None) or Refs()

    def append(
        self, event: str, generation: int | None, sha256: str, refs: Refs, reason: str, cycle: str | None = None
    ) -> None:
        """Record an event, synced; where that fails, the file is as it was.

        Args:
            sha256: of the generation's adapter.
            refs: all refs after the event.

        Raises:
            UserError: the file system refuses.
        """
        line = {
            "format": FORMAT,
            "number": len(self.lines) + 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
            "generation": generation,
            "sha256": sha256,
            "refs": refs.named(),
            "pinned": sorted(refs.pinned),
            "reason": reason,
            "cycle": cycle,
            "previous_sha256": self.tail,
        }
        text = json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
        new = not self.file.exists()
        try:
            with writing(self.file), open(self.file, "ab") as opened:
                opened.write(text + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
            if new:
                with writing(self.file):
                    fsync_path(self.file.parent)
        except UserError:
            with suppress(UserError):
                self.repair()
            raise
        self._add(text)

    def take_back(self) -> None:
        """Remove the last line, whose event could not be carried out.

        Raises:
            UserError: the file system refuses.
        """
        self.lines.pop()
        self.size, self.tail = self._before
        self.repair()

    def repair(self) -> None:
        """Remove what is after the whole lines.

        Raises:
            UserError: the file system refuses.
        """
        with writing(self.file), suppress(FileNotFoundError):
            if self.file.stat().st_size > self.size:
                os.truncate(self.file, self.size)
                fsync_path(self.file)

    def _add(self, text: bytes) -> str | None:
        """Add a line that is in the file, or return the reason that it is not the one that belongs there."""
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            return "is not JSON"
        number = len(self.lines) + 1
        if not isinstance(line, dict) or Refs.of_line(line) is None:
            return "is not one of a history"
        check_format(line, self.file)
        if line.get("previous_sha256") != self.tail:
            return f"was not written after line {number - 1} as it is now" if self.tail else "is not the first one"
        if line.get("number") != number:
            return "is not numbered as it should be"
        self.lines.append(line)
        self._before = (self.size, self.tail)
        self.size, self.tail = self.size + len(text) + 1, hashlib.sha256(text).hexdigest()
        return None
