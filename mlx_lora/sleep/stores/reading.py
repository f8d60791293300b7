"""Stores of the agent's days: every source's rows in one list, each with an id, and the names of all others."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...data.checks.cleaning import finite
from ...data.dataset import CARD, NO_VALIDATION, Example, split_files
from ...data.formats import read_rows
from ...data.import_report import ImportReport, NothingLeft
from ...data.patterns import pattern_of
from ...errors import UserError, guarded
from ...files import remove_any
from ..config import StoreConfig
from .options import dataset_calls, make_dataset_of, paths_of

# A store that was written to so many seconds ago may be in the middle of it: it is read again.
SETTLED_S, PAUSE_S, TRIES = 3.0, 1.0, 3
UNUSABLE = "row that cannot be used"
EMPTY = "there are no rows in it yet"
# Mark of a row whose owner decided that it judges (True) or trains (False).
HELD_OUT_MARK = "sleep_held_out"


@dataclass
class Row:
    """One example of a store.

    Attributes:
        id: the experience's or artifact's, else a hash of the messages, of a trajectory of the question alone.
        store: name of the store.
        group: rows of one group are never both trained on and held out.
    """

    id: str
    store: str
    group: str
    example: Example


@dataclass
class LeftOut:
    """Rows of one store that were left out or changed for one reason; each name begins with the row's id or place."""

    store: str
    reason: str
    rows: list[str]


def add_name(named: list[LeftOut], store: str, reason: str, name: str) -> None:
    """Add a row's name to those of its store and reason."""
    for entry in named:
        if (entry.store, entry.reason) == (store, reason):
            entry.rows.append(name)
            return
    named.append(LeftOut(store, reason, [name]))


@dataclass
class Gathered:
    """The rows of all stores.

    Attributes:
        stores: per store ``{"store", "kind", "paths", "read", "usable", "notes"}``, and ``failed``: the sentence of
            one that could not be used.
    """

    rows: list[Row]
    stores: list[dict[str, Any]]
    left_out: list[LeftOut]


@dataclass
class _Read:
    """Rows and findings of one store."""

    examples: list[Example] = field(default_factory=list)
    read: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather(stores: Sequence[StoreConfig], into: Path) -> Gathered:
    """Read all stores, none of which is changed; one that cannot be used is named, and the others are used.

    Args:
        into: directory of the night, below which each source writes its dataset; an earlier try's is replaced.

    Raises:
        UserError: an option of a store is wrong, or no store can be used.
    """
    calls = [dataset_calls(store) for store in stores]
    gathered = Gathered([], [], [])
    taken: dict[str, tuple[str, str]] = {}
    for number, (store, arguments) in enumerate(zip(stores, calls, strict=True), 1):
        about = {"store": store.name, "kind": store.kind, "paths": store.paths, "read": 0, "usable": 0, "notes": []}
        gathered.stores.append(about)
        try:
            found = _settled(store, arguments, into / f"{number:02d}-{store.kind}")
        except UserError as error:
            about["failed"] = f"store {store.name}: {error}"
            continue
        rows = _new_rows(store, found, taken)
        gathered.rows += rows
        gathered.left_out += [LeftOut(store.name, reason, names) for reason, names in found.left_out.items()]
        about |= {"read": found.read, "usable": len(rows), "notes": found.notes}
        gathered.stores[-1] = about
    failed = [about["failed"] for about in gathered.stores if "failed" in about]
    if failed and len(failed) == len(stores):
        raise UserError(failed[0] if len(failed) == 1 else f"no store can be used: {'; '.join(failed)}")
    return gathered


def _settled(store: StoreConfig, calls: Sequence[dict[str, Any]], into: Path) -> _Read:
    """Read a store; one that its owner is writing to, in place and not all at once, is read again a little later."""
    for left in reversed(range(TRIES)):
        before = _state(store)
        fresh = any(time.time() - changed / 1e9 < SETTLED_S for changed, _ in before)
        try:
            with guarded(f"{', '.join(store.paths)}: this cannot be read as a store of {store.kind}"):
                found = _read(store, calls, into)
        except UserError:
            if not (fresh and left):
                raise
        else:
            # SQLite itself sees to it that a reader meets whole transactions.
            torn = store.kind != "eisv" and _state(store) != before
            if not left or not (torn or (fresh and not found.read)):
                return found
        time.sleep(PAUSE_S)
    raise AssertionError


def _state(store: StoreConfig) -> list[tuple[int, int]]:
    """Return (time of the last change in ns, size) of a store's files."""
    files = [file for path in paths_of(store) for file in (sorted(path.glob("*")) if os.path.isdir(path) else [path])]
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((status.st_mtime_ns, status.st_size))
    return found


def _read(store: StoreConfig, calls: Sequence[dict[str, Any]], into: Path) -> _Read:
    found = _Read()
    if store.kind == "data":
        for path in paths_of(store):
            _read_directory(path, found)
    for number, arguments in enumerate(calls):
        out = into if not number else into.with_name(f"{into.name}-{number + 1}")
        if (out / CARD).is_file():
            # Of this night's earlier try.
            remove_any(out)
        try:
            report = make_dataset_of(store.kind)(out, **arguments).report
        except NothingLeft as error:
            report = error.report
            report.notes.append(str(error) if report.read else f"{EMPTY}: {', '.join(store.paths)}")
        else:
            # The night holds out by itself, so that the source's own splits are one.
            found.examples += [row.example() for _, file in split_files(out) for row in read_rows(file)]
        _add(found, report)
    if not found.read and not found.notes:
        found.notes.append(f"{EMPTY}: {', '.join(store.paths)}")
    if store.kind == "eisv":
        # Its report counts states, of which a window has many.
        found.read = len(found.examples) + sum(map(len, found.left_out.values()))
    return found


def _read_directory(path: Path, found: _Read) -> None:
    """Add the rows of a dataset; where its owner holds some out, in valid or test, all are marked with their side."""
    report = ImportReport("data")
    sides: list[tuple[bool, Example]] = []
    for split, file in split_files(path):
        for row in read_rows(file):
            report.read += 1
            if row.refusal:
                report.leave_out(UNUSABLE, row.refusal)
                continue
            sides.append((split != "train", row.example()))
    is_split = any(judges for judges, _ in sides)
    for judges, example in sides:
        example.meta = finite(example.meta)
        if is_split:
            example.meta[HELD_OUT_MARK] = judges
        found.examples.append(example)
    _add(found, report)


def _add(found: _Read, report: ImportReport) -> None:
    found.read += report.read
    found.notes += [note for note in report.notes if note != NO_VALIDATION]
    for reason, names in report.left_out.items():
        found.left_out.setdefault(reason, []).extend(names)


def _new_rows(store: StoreConfig, found: _Read, taken: dict[str, tuple[str, str]]) -> list[Row]:
    """Return the rows whose ids no earlier row has; ``taken`` has their stores and answers, and is added to."""
    rows = []
    for example in found.examples:
        identity = _identity(store, example)
        answer = json.dumps(example.messages[-1], sort_keys=True)
        if taken.get(identity, ("", answer))[1] != answer:
            # Artifacts of two workflows can share an id.
            identity = messages_hash(example)
        if identity in taken:
            reason = f"the same row is in the store {taken[identity][0]} already"
            found.left_out.setdefault(reason, []).append(row_name(identity, example))
            continue
        taken[identity] = (store.name, answer)
        group = group_of(example, identity)
        meta = {**example.meta, "sleep_store": store.name, "sleep_id": identity, "sleep_group": digest(group)}
        rows.append(Row(identity, store.name, group, replace(example, meta=meta)))
    return rows


def _identity(store: StoreConfig, example: Example) -> str:
    given = example.meta.get("experience_id") or example.meta.get("item_id")
    if isinstance(given, str):
        return given
    # A label is drawn in the order of the states: where the oldest are gone, a trajectory has another, and is not new.
    return digest(question_of(example)) if store.kind == "eisv" else messages_hash(example)


def group_of(example: Example, identity: str) -> str:
    """Return the group of a row: pattern of an experience, task of a trace, document of a claim, else the question."""
    meta = example.meta
    question = question_of(example)
    if "experience_id" in meta:
        return pattern_of(question)
    if "item_id" in meta and isinstance(meta.get("task"), str):
        return str(meta["task"])
    documents = meta.get("documents")
    if meta.get("source") == "claims" and isinstance(documents, list) and documents:
        return f"document {documents[0]}"
    return digest(question) if question.strip() else identity


def question_of(example: Example) -> str:
    """Return the text before the last answer, without the system prompt."""
    last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
    return "\n".join(m.get("content") or "" for m in example.messages[:last] if m["role"] != "system")


def row_name(identity: str, example: Example) -> str:
    """Return the line that names a row for a person: its id and the beginning of its question."""
    text = " ".join(question_of(example)[:400].split())
    return f"{identity}: {text[:80]}{'…' if len(text) > 80 else ''}"


def messages_hash(example: Example) -> str:
    """Return the id of an example that has none of its own."""
    return digest(json.dumps(example.messages, sort_keys=True))


def digest(text: str) -> str:
    """Return the first 16 hex digits of the sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
