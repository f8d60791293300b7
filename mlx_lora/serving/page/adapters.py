"""Adapters with generations or nights as the page shows them, and the changes of what is live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UserError, visible
from ...runs.generations import Generations
from ...runs.history import HISTORY, History
from ...runs.manifest import read_manifest
from ...runs.refs import Refs
from ...sleep.lock import is_running
from ...sleep.night_record import decided, local_time, number_of, read_nights
from ...sleep.reports.r_matrix import matrices
from ...sleep.reports.report import night_rows, render_report
from ...sleep.scheduling.schedule import installed
from ...sleep.undo import promote, roll_back
from .files import Models


def adapter_rows(models: Models) -> list[dict[str, Any]]:
    """Return a row for each adapter: what is live, and how the last night ended."""
    return [_row(name, path) for name, path in sorted(models.find().adapters.items())]


def _row(name: str, path: Path) -> dict[str, Any]:
    generations, nights = Generations(path), read_nights(path)
    refs, last = generations.refs, nights[-1] if nights else None
    kind, words = decided(last) if last else ("", "")
    when = local_time(last.content.get("ended") or last.content.get("started")) if last else ""
    return {
        "name": name,
        **refs.named(),
        "generations": len(generations.numbers()),
        "nights": len(nights),
        "running": is_running(path),
        "last": {"cycle": last.cycle, "kind": kind, "decision": words, "when": when} if last else None,
    }


def adapter_detail(name: str, path: Path) -> dict[str, Any]:
    """Return the generations, nights and history of an adapter.

    A broken history is named in a sentence, and shown up to the line that breaks its chain.
    """
    generations, nights = Generations(path), read_nights(path)
    refs, history = generations.refs, _history(path)
    return {
        "name": name,
        "directory": str(path),
        **refs.named(),
        "pinned": sorted(refs.pinned),
        "running": is_running(path),
        "next_due": _next_due(path),
        "broken": history.broken,
        "generations": [_generation(generations, number, refs) for number in reversed(generations.numbers())],
        "nights": [{key: _shown(value) for key, value in row.items()} for row in night_rows(nights, refs.live)],
        "history": [_event(line) for line in reversed(history.lines)],
        "matrices": [
            {"title": found.title, "about": found.about, "svg": visible(str(found.drawn))} for found in matrices(nights)
        ],
    }


def _generation(generations: Generations, number: int, refs: Refs) -> dict[str, Any]:
    path = generations.path(number)
    try:
        manifest, broken = read_manifest(path), None
    except UserError as error:
        manifest, broken = {}, str(error)
    gate = manifest.get("gate")
    gate = gate if isinstance(gate, dict) else {}
    cycle = manifest.get("cycle")
    return {
        "number": number,
        "refs": [ref for ref, named in refs.named().items() if named == number],
        "pinned": number in refs.pinned,
        "parent": manifest.get("parent"),
        "night": number_of(cycle) if isinstance(cycle, str) and cycle else None,
        "cycle": cycle if isinstance(cycle, str) else None,
        "verdict": str(gate.get("verdict") or "").replace("_", " "),
        "reasons": [_shown(reason) for reason in gate.get("reasons") or [] if isinstance(reason, str)],
        "broken": broken,
    }


def _history(path: Path) -> History:
    file = path / HISTORY
    try:
        return History.read(file)
    except UserError as error:
        return History(file, broken=str(error))


def _event(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": line.get("number"),
        "when": local_time(line.get("time")),
        "event": _shown(str(line.get("event")).replace("_", " ")),
        "generation": line.get("generation"),
        "live": line["refs"].get("live"),
        "reason": _shown(str(line.get("reason") or "")),
        "cycle": _shown(line.get("cycle")),
    }


def _next_due(path: Path) -> str:
    try:
        schedule = installed(path)
    except UserError:
        return ""
    return local_time(schedule["next_due"]) if schedule else ""


def night_page(path: Path, cycle: str) -> str:
    """Return the body of a night's page, as HTML whose values are escaped.

    Raises:
        UserError: there is no such night, or its record cannot be read.
    """
    page = render_report(path, cycle)
    return page.partition("<main>")[2].rpartition("</main>")[0]


def make_live(path: Path, number: int, reason: str) -> list[str]:
    """Make a generation live, or confirm it where it is on trial, and return notes for the user.

    Raises:
        UserError: there is no such generation, it is damaged, or the file system refuses.
    """
    return promote(Generations(path), number, reason)


def go_back(path: Path, to: int | None, reason: str) -> list[str]:
    """Return to an earlier generation, by default the previous one, and return notes for the user; 0 is the base.

    Raises:
        UserError: there is no such generation, it is damaged, or the file system refuses.
    """
    return roll_back(Generations(path), reason, to)[1]


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value
