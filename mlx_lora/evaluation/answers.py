"""Answers to the cases of a suite, saved as they arrive: an interrupted evaluation asks only what is missing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..files import FORMAT, create_file, replace_file, temporary_beside, writing
from .cases import Case
from .suite import Generation
from .target import Target

NOT_ASKED = "not asked: the evaluation was stopped before"
_FIELDS = {field.name for field in fields(Reply)}
_Known = dict[str, Reply]


def ask(
    target: Target,
    cases: Sequence[Case],
    generation: Generation,
    saved: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
    stop: Callable[[list[Reply]], bool] = lambda replies: False,
) -> list[Reply]:
    """Return a reply for each case, generated in groups of ``target.group`` in the order of the cases.

    A group's seed is ``generation.seed`` plus the number of its first case, so that its answers do not depend on
    what was answered before an interruption.

    Args:
        saved: file in which the answers are kept, or None. Answers of another target, other cases or other settings
            in it are replaced.
        stop: given all replies so far after each group; True ends the asking, and the rest is not answered.

    Raises:
        UserError: the target cannot answer at all, or the file cannot be written.
    """
    known: _Known = {}
    if saved is not None:
        identity = _identity(target, cases, generation)
        known = _read(saved, identity)
        if not known:
            _begin(saved, identity)
    replies: list[Reply] = []
    for start in range(0, len(cases), target.group):
        group = cases[start : start + target.group]
        if any(case.id not in known for case in group):
            settings = replace(generation, seed=generation.seed + start)
            fresh = target.answer([case.messages for case in group], [case.id for case in group], settings)
            found = {case.id: reply for case, reply in zip(group, fresh, strict=True)}
            known |= found
            if saved is not None:
                _append(saved, found)
        replies += [known[case.id] for case in group]
        advance(len(replies))
        if stop(replies):
            return replies + [Reply(None, NOT_ASKED)] * (len(cases) - len(replies))
    return replies


def _identity(target: Target, cases: Sequence[Case], generation: Generation) -> dict[str, Any]:
    asked = json.dumps([(case.id, case.messages) for case in cases], sort_keys=True, ensure_ascii=False)
    return {
        "format": FORMAT,
        "target": target.identity,
        "cases_sha256": hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest(),
        "group": target.group,
        **asdict(generation),
    }


def _begin(file: Path, identity: dict[str, Any]) -> None:
    temporary = temporary_beside(file)
    with writing(file), os.fdopen(create_file(temporary, file), "wb") as stream:
        stream.write(json.dumps(identity).encode() + b"\n")
    replace_file(temporary, file)


def _append(file: Path, found: _Known) -> None:
    lines = [json.dumps({"id": name, **asdict(reply)}, ensure_ascii=False) + "\n" for name, reply in found.items()]
    with writing(file), open(file, "ab") as stream:
        stream.write("".join(lines).encode("utf-8", "replace"))
        stream.flush()
        os.fsync(stream.fileno())


def _read(file: Path, identity: dict[str, Any]) -> _Known:
    """Return the saved answers of this evaluation; a last line that was cut is removed from the file."""
    if not file.exists():
        return {}
    rows: list[dict[str, Any]] = []
    complete = file.read_bytes().rpartition(b"\n")[0]
    for line in complete.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            return {}
    if not rows or rows[0] != identity:
        return {}
    with writing(file):
        os.truncate(file, len(complete) + 1)
    answers = rows[1:]
    # A case that failed is asked again.
    return {row["id"]: Reply(**{key: row[key] for key in _FIELDS & set(row)}) for row in answers if not row["error"]}
