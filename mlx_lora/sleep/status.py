"""Status of an adapter's nights: refs, schedule, and the last night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.generations import Generations
from .lock import is_running, read_owner
from .record import CYCLES, read_cycles
from .schedule import installed


def status_of(name: Path) -> dict[str, Any]:
    """Return ``{"live", "previous", "best", "trial", "next_due", "installed", "last", "running"}``.

    Raises:
        UserError: the directory holds neither nights nor generations.
    """
    name = name.expanduser()
    generations = Generations(name)
    if not (name / CYCLES).is_dir() and not generations.numbers() and installed(name) is None:
        raise UserError(f"{name}: there are neither nights nor generations; name the directory of the config's `name`")
    cycles = read_cycles(name)
    schedule = installed(name)
    last = cycles[-1] if cycles else None
    kept = ("cycle", "started", "ended", "decision", "reason", "generation", "new", "replayed")
    shown = None if last is None else {key: last.content[key] for key in kept}
    if shown is not None and shown["decision"] is None:
        current = (last.content["current"] or {}).get("step") if last else None
        shown |= {"decision": "unfinished", "reason": f"in the step {current}; the next run resumes it"}
    return {
        **{ref: getattr(generations, ref) for ref in ("live", "previous", "best", "trial")},
        "pinned": sorted(generations.pinned),
        "next_due": schedule["next_due"] if schedule else None,
        "installed": schedule,
        "running": read_owner(name) if is_running(name) else None,
        "last": shown,
    }
