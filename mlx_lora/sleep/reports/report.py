"""Report of the nights: a page for each, an index of all, and a line for the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from ...errors import UserError, visible
from ...reporting import render_page, write_page
from ...reporting.numbers import duration, rounded
from ...runs.directory import METRICS_FILE, REPORT_FILE
from ...runs.events import TrainingWarning, of_kind, read_events
from ...runs.generations import Generations
from ...runs.names import adapter_directory
from ...training.report import loss_figure
from ..night_record import Night, decided, local_time, number_of, read_nights, reason_of
from ..record import CYCLES
from . import night_views as views
from .r_matrix import matrices

INDEX_FILE, TEMPLATE = "index.html", "night.html"
# Longest line of the log.
LONGEST_LINE = 400


def write_report(name: Path, cycle: str) -> Path:
    """Write the page of a night and the index of all nights; return the path of the page.

    It works for every end of a night, and for steps that are missing.

    Raises:
        UserError: there is no such night, its record cannot be read, or the page cannot be written.
    """
    nights, night = _find(name, cycle)
    live = Generations(name).live
    page = night.directory / REPORT_FILE
    write_page(page, TEMPLATE, **_values(name, night, nights, live))
    _write_index(name, nights, live)
    return page


def render_report(name: Path, cycle: str) -> str:
    """Return the page of a night as it is now.

    Raises:
        UserError: there is no such night, or its record cannot be read.
    """
    nights, night = _find(name, cycle)
    return render_page(TEMPLATE, **_values(name, night, nights, Generations(name).live))


def _find(name: Path, cycle: str) -> tuple[list[Night], Night]:
    """Return all nights, and the one of a cycle."""
    place = name / CYCLES / cycle
    nights = read_nights(name)
    night = next((night for night in nights if night.cycle == cycle), None)
    if night is None:
        known = f"there are {nights[0].cycle} to {nights[-1].cycle}" if nights else "there was none yet"
        raise UserError(f"{place}: there is no such night; {known}")
    if night.unreadable is not None:
        raise UserError(f"{place}: the record of this night cannot be read ({night.unreadable})")
    return nights, night


def find_adapter(name: Path) -> Path:
    """Return the directory of an adapter's nights: a path, or the name of a directory in ``adapters/``."""
    return adapter_directory(name, lambda place: (place / CYCLES).is_dir()) or name.expanduser()


def last_cycle(name: Path) -> str:
    """Return the name of the last night.

    Raises:
        UserError: there was none yet.
    """
    nights = read_nights(name)
    if not nights:
        raise UserError(f"{name / CYCLES}: there was no night yet; `mlx-lora sleep run` runs one")
    return nights[-1].cycle


def log_line(content: dict[str, Any]) -> str:
    """Return the line of ``sleep.log`` for a night, such as ``2026-11-27 03:12 night 7: promoted as generation 7``.

    Args:
        content: of ``cycle.json``.
    """
    night = Night(Path(str(content.get("cycle", ""))), content)
    words, reason = decided(night)[1], reason_of(night)
    facts = [f"{words}: {reason}" if reason and not night.learned else words]
    facts += [f"{content[key]:,} {key}" for key in ("new", "replayed") if content.get(key)]
    if seconds := sum(step.get("seconds") or 0 for step in night.steps):
        facts.append(duration(seconds))
    when = local_time(content.get("ended") or content.get("started"))
    line = f"{when} night {number_of(night.cycle)}: {', '.join(facts)}".strip()
    line = visible(" ".join(line.split()))
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…"


def _values(name: Path, night: Night, nights: list[Night], live: int | None) -> dict[str, Any]:
    content = night.content
    cycles = [each.cycle for each in nights]
    at = cycles.index(night.cycle)
    kind, words = decided(night)
    loss, told = _training(night)
    return {
        "name": name.name,
        "number": number_of(night.cycle),
        "started": local_time(content.get("started")),
        "ended": local_time(content.get("ended"), "%H:%M"),
        "kind": kind,
        "decision": words[:1].upper() + words[1:],
        "reason": reason_of(night),
        "live": _live(live),
        "earlier": _link(cycles[at - 1]) if at > 0 else None,
        "later": _link(cycles[at + 1]) if at + 1 < len(cycles) else None,
        "cards": views.cards(night),
        "warnings": views.warnings(night),
        "stores": views.stores_of(night),
        "notes": views.notes_of(night),
        "replay": views.replay_of(night),
        "answers": views.answers_of(night.judged),
        "candidates": views.candidates_of(night),
        "matrices": matrices(nights[: at + 1]),
        "loss": loss,
        "told": told,
        "training": views.training_of(night),
        "left_out": views.left_out_of(night),
        "changed": views.left_out_of(night, "changed"),
        "indexed": views.indexed_of(night),
        "guards": views.guards_of(night),
        "steps": views.steps_of(night),
        "export": views.export_of(night),
        "trial": night.result("trial"),
        "config": yaml.safe_dump(content.get("config") or {}, allow_unicode=True, sort_keys=False),
    }


def _link(cycle: str) -> dict[str, str]:
    return {"cycle": cycle, "number": number_of(cycle)}


def _live(live: int | None) -> str:
    return "the base, no generation" if live is None else f"generation {live}"


def _training(night: Night) -> tuple[Markup, list[str]]:
    """Return the loss curve of the night's run and the warnings of its training."""
    file = night.directory / "run" / METRICS_FILE
    try:
        events = read_events(file)
    except (OSError, UnicodeDecodeError):
        return Markup(""), []
    return loss_figure(events), [event.message for event in of_kind(events, TrainingWarning)]


def night_rows(nights: list[Night], live: int | None) -> list[dict[str, Any]]:
    """Return a row for each night, the newest first."""
    rows = []
    for night in reversed(nights):
        content = night.content
        kind, words = decided(night)
        rows.append(
            {
                "cycle": night.cycle,
                "number": number_of(night.cycle),
                "page": f"{night.cycle}/{REPORT_FILE}" if (night.directory / REPORT_FILE).is_file() else None,
                "when": local_time(content.get("ended") or content.get("started")),
                "kind": kind,
                "decision": words,
                "reason": reason_of(night),
                "generation": content.get("generation"),
                "live": live is not None and content.get("generation") == live,
                "new": f"{content['new']:,}" if isinstance(content.get("new"), int) else "",
                "score": _mean(night, "scores"),
                "loss": _mean(night, "losses"),
            }
        )
    return rows


def _write_index(name: Path, nights: list[Night], live: int | None) -> None:
    write_page(
        name / CYCLES / INDEX_FILE,
        "nights.html",
        name=name.name,
        live=_live(live),
        rows=night_rows(nights, live),
        matrices=matrices(nights),
    )


def _mean(night: Night, key: str) -> str:
    """Return the mean of the judged candidate's scores or losses over all nights."""
    found = [value for value in (night.judged.get(key) or {}).values() if value is not None]
    return rounded(sum(found) / len(found)) if found else ""
