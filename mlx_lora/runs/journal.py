"""Journal of an adapter's generations: changes under a lock, recorded first, and completed after a kill."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.adapter_format import GENERATIONS, LIVE, REFS, has_generations
from ..errors import UserError
from ..files import file_lock, fsync_path, remove_any, writing
from .directory import is_run
from .history import HISTORY, History
from .incremental_state import STATE_FILE
from .manifest import generation_numbers, parent_of, read_manifest, recorded_sha256
from .refs import FILES, Refs, staged

LOCK = ".generations.lock"
# A writer waits for another one: the slowest one copies an adapter.
PATIENCE = 120.0
# Prefix of a generation that is being deleted.
GOING = ".collected-"


@dataclass
class Journal:
    """The history of one adapter, open for changes."""

    directory: Path
    history: History

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Lines of the history."""
        return self.history.lines

    @property
    def refs(self) -> Refs:
        """Refs after the last event."""
        return self.history.refs

    def record(
        self,
        event: str,
        generation: int | None,
        refs: Refs,
        reason: str,
        cycle: str | None = None,
        sha256: str | None = None,
    ) -> None:
        """Record an event, then let refs and links follow; where that fails, neither has changed.

        Args:
            generation: that the event is of; ``None`` is the base.
            refs: all refs after the event.
            sha256: of the generation's adapter, by default as its manifest says.

        Raises:
            UserError: the file system refuses.
        """
        if sha256 is None:
            sha256 = "" if generation is None else recorded_sha256(self._place(generation))
        before = self.refs
        with staged(self.directory, refs) as put:
            self.history.append(event, generation, sha256, refs, reason, cycle)
            try:
                put()
            except UserError:
                # Where the refs cannot be put back either, the event stays recorded, and is completed later.
                with suppress(UserError), staged(self.directory, before) as put_back:
                    put_back()
                    self.history.take_back()
                raise

    def delete(self, number: int, reason: str) -> None:
        """Delete a generation, renamed first so that no reader meets it half deleted.

        Raises:
            UserError: the file system refuses.
        """
        hidden = self._place(number).with_name(f"{GOING}{number:04d}")
        _rename(self._place(number), hidden)
        try:
            self._delete_hidden(hidden, self.refs, reason)
        except UserError:
            with suppress(UserError):
                _rename(hidden, self._place(number))
            raise

    def complete(self) -> None:
        """Complete what a killed process began, and take over the directory of an earlier version.

        Raises:
            UserError: the file system refuses.
        """
        self.history.repair()
        self._sweep()
        refs = self.refs if self.lines else self._known_refs()
        for hidden in sorted((self.directory / GENERATIONS).glob(f"{GOING}*")):
            self._delete_hidden(hidden, refs, "its deletion was interrupted")
        events = self._last_events()
        # The live one first, so that the history never lacks it.
        for number in sorted(generation_numbers(self.directory), key=lambda number: number != refs.live):
            # Of an earlier version, added by a process that was killed before it could record it, or put back.
            unknown = events.get(number) in (None, "collected")
            if unknown and (sha256 := recorded_sha256(self._place(number))):
                cycle = read_manifest(self._place(number)).get("cycle")
                self.record("adopted", number, refs, "found, and recorded nowhere", cycle, sha256)
        if self.lines:
            with staged(self.directory, refs) as put:
                put()

    def _sweep(self) -> None:
        """Remove what killed processes have left half-made; whoever makes such things holds the lock."""
        links = [f".{name}.[0-9]*.tmp" for name in (LIVE, *FILES)]
        for pattern in (f"{GENERATIONS}/.*.tmp", f"{REFS}/.*.tmp", *links):
            for leftover in self.directory.glob(pattern):
                remove_any(leftover)

    def _place(self, number: int) -> Path:
        return self.directory / GENERATIONS / f"{number:04d}"

    def _last_events(self) -> dict[int | None, str]:
        return {line["generation"]: line["event"] for line in self.lines}

    def _delete_hidden(self, hidden: Path, refs: Refs, reason: str) -> None:
        found = re.fullmatch(f"{re.escape(GOING)}([0-9]{{4,9}})", hidden.name)
        if found and self._last_events().get(int(found[1])) != "collected":
            self.record("collected", int(found[1]), refs, reason, None, recorded_sha256(hidden))
        shutil.rmtree(hidden, ignore_errors=True)

    def _known_refs(self) -> Refs:
        """Return the refs of a directory without a history, as far as their generations exist."""
        refs, numbers = Refs.read(self.directory), set(generation_numbers(self.directory))
        named = {name: number if number in numbers else None for name, number in refs.named().items()}
        if named["live"] is not None and named["previous"] is None:
            parent = parent_of(self._place(named["live"]))
            named["previous"] = parent if parent in numbers else None
        return Refs(**named, pinned=refs.pinned & numbers)


@contextmanager
def open_journal(directory: Path) -> Iterator[Journal]:
    """Hold the lock of an adapter's generations; everything that was interrupted is completed first.

    Raises:
        UserError: the directory is a run's, the chain of the history is broken, another process does not end, or the
            file system refuses.
    """
    known = has_generations(directory) or any((directory / name).exists() for name in (HISTORY, STATE_FILE))
    if is_run(directory) and not known:
        raise UserError(
            f"{directory}: this is a run, which generations would replace; choose another name, and start from this "
            f"adapter with init_adapter: {directory}"
        )
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    busy = f"{directory}: another process is changing its generations; try again when it has ended"
    with file_lock(directory / LOCK, busy, PATIENCE):
        journal = Journal(directory, History.read(directory / HISTORY).check())
        journal.complete()
        yield journal


def _rename(path: Path, new: Path) -> None:
    with writing(path):
        path.rename(new)
        fsync_path(path.parent)
