"""Status of an adapter's nights: refs, schedule, and the last night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..backends.adapter_format import has_generations
from ..errors import UserError
from ..runs.generations import Generations
from ..runs.names import adapter_directory
from .lock import is_running, read_owner
from .record import CYCLES, read_cycles
from .scheduling.schedule import SCHEDULE_FILE, installed


def _has_nights(place: Path) -> bool:
    return (place / CYCLES).is_dir() or has_generations(place) or (place / SCHEDULE_FILE).exists()


def status_of(name: Path) -> dict[str, Any]:
    """Return ``{"live", "previous", "best", "trial", "next_due", "installed", "last", "running"}``.

    Raises:
        UserError: the directory holds neither nights nor generations.
    """
    directory = adapter_directory(name, _has_nights)
    if directory is None:
        raise UserError(f"{name}: there are neither nights nor generations; name the directory of the config's `name`")
    generations, cycles, schedule = Generations(directory), read_cycles(directory), installed(directory)
    last = cycles[-1] if cycles else None
    kept = ("cycle", "started", "ended", "decision", "reason", "generation", "new", "replayed")
    shown = None if last is None else {key: last.content[key] for key in kept}
    if shown is not None and shown["decision"] is None:
        current = (last.content["current"] or {}).get("step") if last else None
        shown |= {"decision": "unfinished", "reason": f"in the step {current}; the next run resumes it"}
    if shown is not None and last is not None and (indexed := last.result("index")):
        shown["indexed"] = {"count": indexed["indexed"], "buffered": indexed["buffered"], "rows": indexed["rows"]}
    return {
        **{ref: getattr(generations, ref) for ref in ("live", "previous", "best", "trial")},
        "pinned": sorted(generations.pinned),
        "next_due": schedule["next_due"] if schedule else None,
        "installed": schedule,
        "running": read_owner(directory) if is_running(directory) else None,
        "last": shown,
    }
