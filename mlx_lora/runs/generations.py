"""Generations of an adapter: immutable directories, refs that name some of them, and the history of it all.

``generations/0007`` never changes. ``refs/live`` names the one in use and is replaced by rename; ``live`` and
``adapters.safetensors``, which mlx-lm and people's scripts open, are links that follow it. A program that opens two of
them one after the other may meet a new generation in between, so ``adapter_config.json`` is kept byte for byte while
only dropout differs, and our own readers find the generation once
(:func:`~mlx_lora.backends.adapter_format.published`).

``history.jsonl`` is the truth: an event is recorded there, with all refs after it, before the refs follow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backends.adapter_format import ADAPTER_FILE, generation_path
from ..errors import UserError
from ..files import sha256_of
from .history import HISTORY, History
from .journal import Journal, open_journal
from .manifest import (
    check_whole,
    generation_numbers,
    make_generation,
    parent_of,
    read_manifest,
    recorded_sha256,
    started_from,
)
from .refs import NAMES, Refs

# The generation of a run that is added again is found by these keys of its manifest.
IDENTIFYING = ("cycle", "round")


class Generations:
    """The generations of one adapter.

    Attributes:
        directory: of the adapter, such as adapters/agent.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).expanduser()

    @property
    def refs(self) -> Refs:
        """All refs, each read once."""
        return Refs.read(self.directory)

    @property
    def live(self) -> int | None:
        """The generation in use; ``None``: the base is."""
        return self.refs.live

    @property
    def previous(self) -> int | None:
        """The generation that a rollback returns to; ``None``: the base."""
        return self.refs.previous

    @property
    def best(self) -> int | None:
        """The best generation so far."""
        return self.refs.best

    @property
    def trial(self) -> int | None:
        """The live generation while it is on trial."""
        return self.refs.trial

    @property
    def pinned(self) -> set[int]:
        """Generations that are kept for ever."""
        return set(self.refs.pinned)

    def numbers(self) -> list[int]:
        """Return the numbers of the generations that exist, in ascending order."""
        return generation_numbers(self.directory)

    def path(self, number: int) -> Path:
        """Return the directory of a generation."""
        return generation_path(self.directory, number)

    def resolve(self, which: str) -> Path:
        """Return the directory of the generation that a ref or a number names.

        Raises:
            UserError: there is none; the sentence names those that exist.
        """
        if which in NAMES:
            number = self.refs.named()[which]
            said = (
                f"there is no {which} generation"
                if number is None
                else f"{which} is generation {number}, which is gone"
            )
        else:
            number = int(which) if re.fullmatch("[0-9]{1,9}", which) else None
            said = f"there is no generation {which}"
        if number is None or not self.path(number).is_dir():
            raise UserError(f"{self.directory}@{which}: {said}; {self.described()}")
        return self.path(number)

    def described(self) -> str:
        """Return the refs and generations that exist, for a sentence."""
        numbers = ", ".join(map(str, self.numbers())) or "none"
        named = [f"{name} is {number}" for name, number in self.refs.named().items() if number is not None]
        return f"generations: {numbers}; refs: {', '.join(named) or 'none, the base is live'}"

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of the history.

        Raises:
            UserError: its chain is broken, or it cannot be read.
        """
        return History.read(self.directory / HISTORY).check().lines

    def was_promoted(self, number: int) -> bool:
        """Return True if a generation has been made live, whatever has been made live since.

        Raises:
            UserError: see :meth:`history`.
        """
        return any((line["event"], line["generation"]) == ("promoted", number) for line in self.history())

    def add(self, run: Path, about: Mapping[str, Any]) -> int:
        """Copy a finished run's adapter into a new generation, and return its number; the same run again adds nothing.

        Args:
            about: keys of the manifest: cycle or round (either identifies the run, with its adapter's sha256), gate,
                parent (by default the generation that the run started from, or the live one).

        Raises:
            UserError: the run has no adapter, or the file system refuses.
        """
        run = Path(run)
        check_whole(run, thorough=False)
        with open_journal(self.directory) as journal:
            sha256 = sha256_of(run / ADAPTER_FILE)
            for number in reversed(self.numbers()):
                manifest = read_manifest(self.path(number))
                same = any(about.get(key) not in (None, "") and manifest.get(key) == about[key] for key in IDENTIFYING)
                if same and recorded_sha256(self.path(number)) == sha256:
                    return number
            known = [line["generation"] for line in journal.lines if isinstance(line["generation"], int)]
            number = max([*self.numbers(), *known], default=0) + 1
            parent = started_from(run, self.directory) or journal.refs.live
            make_generation(run, self.directory, number, {"parent": parent, **about})
            journal.record("added", number, journal.refs, "", about.get("cycle"))
            return number

    def promote(self, number: int, reason: str, *, trial: bool = False, cycle: str | None = None) -> None:
        """Make a generation live, and the live one previous; the live one again changes nothing.

        Args:
            trial: it stays on trial until :meth:`confirm`, or a rollback.

        Raises:
            UserError: it does not exist, it is damaged, or the file system refuses.
        """
        with open_journal(self.directory) as journal:
            refs = journal.refs
            if refs.live == number:
                return
            check_whole(self.resolve(str(number)))
            refs = replace(refs, live=number, previous=refs.live, trial=number if trial else None)
            journal.record("promoted", number, refs, reason, cycle)

    def confirm(self, reason: str) -> None:
        """End the trial of the live generation; without a trial, nothing changes."""
        with open_journal(self.directory) as journal:
            if (number := journal.refs.trial) is not None:
                journal.record("confirmed", number, replace(journal.refs, trial=None), reason)

    def mark_best(self, number: int, reason: str) -> None:
        """Name a generation the best so far."""
        with open_journal(self.directory) as journal:
            self.resolve(str(number))
            if journal.refs.best != number:
                journal.record("best", number, replace(journal.refs, best=number), reason)

    def rollback(self, reason: str, to: int | None = None) -> int | None:
        """Return to an earlier generation, and return its number; ``None``: to the base.

        By default it is the one that was live before the live one; one that is damaged or gone is passed over.

        Args:
            to: a generation; 0 is the base.

        Raises:
            UserError: no generation is live, there is no such one, it is damaged, or the file system refuses.
        """
        with open_journal(self.directory) as journal:
            refs = journal.refs
            if to:
                check_whole(self.resolve(str(to)), thorough=False)
            elif refs.live is None:
                raise UserError(f"{self.directory}: no generation is live, so that nothing can be undone")
            target = (to or None) if to is not None else self._usable(journal, refs.previous)
            if target == refs.live:
                return target
            previous = self._usable(journal, _previous_of(journal, target))
            back = replace(refs, live=target, previous=previous, trial=None)
            journal.record("rolled_back", target, back, reason)
            return target

    def pin(self, number: int) -> None:
        """Keep a generation for ever."""
        with open_journal(self.directory) as journal:
            self.resolve(str(number))
            if number not in journal.refs.pinned:
                pinned = replace(journal.refs, pinned=journal.refs.pinned | {number})
                journal.record("pinned", number, pinned, "")

    def unpin(self, number: int) -> None:
        """Let a generation be collected again."""
        with open_journal(self.directory) as journal:
            if number in journal.refs.pinned:
                pinned = replace(journal.refs, pinned=journal.refs.pinned - {number})
                journal.record("unpinned", number, pinned, "")

    def collect(self, keep: int = 5) -> list[int]:
        """Delete generations and return their numbers: none of the last ``keep``, none pinned, none that a ref names.

        Raises:
            UserError: the file system refuses.
        """
        with open_journal(self.directory) as journal:
            refs, numbers = journal.refs, self.numbers()
            kept = {*refs.named().values(), *refs.pinned, *numbers[max(0, len(numbers) - keep) :]}
            known = {line["generation"] for line in journal.lines}
            going = [number for number in numbers if number not in kept and number in known]
            for number in going:
                journal.delete(number, f"older than the last {keep}")
            return going

    def recover(self) -> None:
        """Complete what a killed process began: the refs and links follow the history.

        Every other method that writes does this first. A directory of an earlier version is taken over.

        Raises:
            UserError: the chain of the history is broken, or the file system refuses.
        """
        with open_journal(self.directory):
            pass

    def _usable(self, journal: Journal, number: int | None) -> int | None:
        """Return a generation, or the nearest before it that is there and whole; ``None`` is the base."""
        tried: set[int] = set()
        while number is not None and number not in tried:
            tried.add(number)
            try:
                check_whole(self.path(number), thorough=False)
                return number
            except UserError:
                number = _previous_of(journal, number)
        return None


def _previous_of(journal: Journal, number: int | None) -> int | None:
    """Return the generation that was previous when ``number`` was last live, else its parent."""
    if number is None:
        return None
    lines = [line for line in reversed(journal.lines) if line["refs"].get("live") == number]
    return lines[0]["refs"].get("previous") if lines else parent_of(generation_path(journal.directory, number))
