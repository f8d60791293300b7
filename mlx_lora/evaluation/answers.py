"""Answers to the cases of a suite, saved as they arrive: an interrupted evaluation asks only what is missing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError
from ..files import FORMAT, check_format, create_file, replace_file, temporary_beside, writing
from ..user_files import read_bytes
from .cases import Case
from .suite import Generation
from .targets.target import StreamingTarget, Target

NOT_ASKED = "not asked: the evaluation was stopped before"
_FIELDS = {field.name for field in fields(Reply)}
_Known = dict[str, Reply]
# Answers of some hundred cases; much longer than any.
MOST_BYTES = 2**30


def ask(
    target: Target,
    cases: Sequence[Case],
    generation: Generation,
    saved: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
    stop: Callable[[list[Reply]], bool] = lambda replies: False,
) -> list[Reply]:
    """Return a reply for each case, in the order of the cases.

    A target that streams is asked what is missing, and each answer is saved as it arrives. Of another one a group of
    ``target.group`` is answered as a whole, since its answers may depend on their company. A case's seed is
    ``generation.seed`` plus its number, a group's is that of its first case: the answers do not depend on what was
    answered before an interruption.

    Args:
        saved: file in which the answers are kept, or None. Answers of another target, other cases or other settings
            in it are replaced.
        stop: given the replies so far, in order; True ends the asking, and the rest is not answered.

    Raises:
        UserError: the target cannot answer at all, or the file cannot be written or is not one of answers.
    """
    known: _Known = {}
    if saved is not None:
        identity = _identity(target, cases, generation)
        known = _read(saved, identity)
        if not known:
            _begin(saved, identity)
    done, missing = 0, {case.id for case in cases} - set(known)
    for found in _asked(target, cases, generation, missing):
        found = {name: _printable(reply) for name, reply in found.items()}
        known |= found
        if saved is not None and found:
            _append(saved, found)
        advance(len(known))
        while done < len(cases) and cases[done].id in known:
            done += 1
        if stop([known[case.id] for case in cases[:done]]):
            break
    return [known.get(case.id) or Reply(None, NOT_ASKED) for case in cases]


def _asked(target: Target, cases: Sequence[Case], generation: Generation, missing: set[str]) -> Iterator[_Known]:
    """Yield the replies to missing cases as they arrive, and nothing for a group that lacks none."""
    if isinstance(target, StreamingTarget):
        places = [number for number, case in enumerate(cases) if case.id in missing]
        seeds = [generation.seed + number for number in places]
        for place, reply in target.stream([cases[number].messages for number in places], seeds, generation):
            yield {cases[places[place]].id: reply}
        return
    for start in range(0, len(cases), target.group):
        group = cases[start : start + target.group]
        if not any(case.id in missing for case in group):
            yield {}
            continue
        settings = replace(generation, seed=generation.seed + start)
        replies = target.answer([case.messages for case in group], [case.id for case in group], settings)
        yield {case.id: reply for case, reply in zip(group, replies, strict=True)}


def _printable(reply: Reply) -> Reply:
    """Return a reply without unpaired surrogates, which a server may send and no file can hold."""
    if reply.text is None or reply.text.isascii():
        return reply
    return replace(reply, text=reply.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


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
    """Return the saved answers of this evaluation; a last line that was cut is removed from the file.

    Raises:
        UserError: the file is of a later version, or it is not one that ``ask`` wrote: it is not replaced.
    """
    if not os.path.lexists(file):
        return {}
    try:
        complete = read_bytes(file, MOST_BYTES).rpartition(b"\n")[0]
        first, *rows = [json.loads(line) for line in complete.split(b"\n")]
        ours = first.keys() >= {"format", "target", "cases_sha256"}
    except (OSError, ValueError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise UserError(f"{file}: this is not a file of answers that eval saved; move it, or choose another --out")
    check_format(first, file)
    if first != identity:
        return {}
    with writing(file):
        os.truncate(file, len(complete) + 1)
    # A case that failed is asked again.
    return {row["id"]: Reply(**{key: row[key] for key in _FIELDS & set(row)}) for row in rows if not row["error"]}
