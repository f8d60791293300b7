"""Promotion of a night's candidate: a new generation on trial, its confirmation or rollback, and its export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.generations import Generations
from .context import Cycle
from .judging import parts_of
from .nights import Nights
from .publish import EXPORTS, export_generation
from .record import CycleRecord
from .trial import try_out


def promote(generations: Generations, candidate: dict[str, Any], record: CycleRecord) -> dict[str, Any]:
    """Make the candidate a generation, and live on trial; again after a kill, it changes nothing."""
    gate = {key: candidate[key] for key in ("alpha", "verdict", "reasons", "checks", "scores", "losses")}
    number = generations.add(Path(candidate["path"]), {"cycle": record.key, "gate": gate})
    # A rollback since a cycle was cut stays.
    if not generations.was_promoted(number):
        generations.promote(number, "; ".join(candidate["reasons"]), trial=True, cycle=record.key)
    return {"generation": number, "previous": generations.previous}


def confirm_or_roll_back(cycle: Cycle, nights: Nights, candidate: dict[str, Any], number: int) -> dict[str, Any]:
    """Ask what is live, through its name, and confirm it, or go back to what was live before."""
    config, generations = cycle.config, cycle.generations
    if generations.live != number:
        # By this cycle, before it was cut, or by somebody.
        last = generations.history()[-1]
        said = last["reason"] if last["event"] == "rolled_back" else "another generation has been made live since"
        return {"passed": False, "said": said}
    try:
        passed, said = try_out(
            f"{config.directory}@live",
            parts_of(cycle, nights),
            config.trial,
            cycle.record.directory / "trial",
            backend=config.training().backend,
            progress=cycle.around.progress,
            notes=cycle.around.notes,
        )
    except UserError as error:
        # It was judged from its files an hour ago: whatever fails now, it is not to stay.
        passed, said = False, str(error)
    if passed:
        generations.confirm(said)
        if candidate["verdict"] == "better" or generations.best is None:
            generations.mark_best(number, "; ".join(candidate["reasons"]))
    else:
        generations.rollback(f"the trial failed: {said}", to=cycle.record.content["parent"] or 0)
    return {"passed": passed, "said": said}


def export(cycle: Cycle, number: int) -> dict[str, Any]:
    """Export the live generation where the config asks for it; a failure is named and the promotion stands."""
    wish = cycle.config.export
    if wish.gguf is None and wish.ollama is None:
        return {}
    place = cycle.generations.directory / EXPORTS / f"{number:04d}"
    return export_generation(cycle.generations, number, wish, place, cycle.around.progress)


def catch_up(cycle: Cycle) -> None:
    """Complete the export of what is live where an earlier night's failed, so that the alias follows."""
    number = cycle.generations.live
    maker = next((one for one in reversed(cycle.before) if one.content["generation"] == number), None)
    if number is not None and maker is not None and "failed" in (maker.result("export") or {}):
        found = export(cycle, number)
        if "failed" not in found:
            cycle.record.content.setdefault("notes", []).append(f"generation {number} is exported now")
