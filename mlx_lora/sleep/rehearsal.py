"""Rehearsal of a night (``--dry-run``): what it would learn from and what would keep it from running."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..runs.generations import Generations
from .config import SleepConfig
from .due import not_due
from .gathering import curated, gathered
from .guards import check_guards
from .inputs import check_inputs
from .nights import read_nights
from .record import read_cycles


def rehearse(config: SleepConfig, if_due: bool) -> dict[str, Any]:
    """Return ``{"would_run", "said", "gather", "curate"}`` of a night that would begin now; nothing is written.

    Raises:
        UserError: no store can be used.
    """
    directory = config.directory
    check_inputs(config)
    cycles = read_cycles(directory)
    said: list[str] = []
    if cycles and not cycles[-1].finished:
        return {"would_run": True, "said": [f"night {cycles[-1].key} was cut; the next run resumes it"]}
    why = not_due(config, cycles, if_due)
    refused = [guard.said for guard in check_guards(config.guards, directory) if not guard.ok]
    said += ([why] if why else []) + refused
    result: dict[str, Any] = {"gather": None, "curate": None}
    live = Generations(directory).live
    nights = read_nights(directory, cycles, live)
    with tempfile.TemporaryDirectory() as place:
        result["gather"] = found = gathered(config, nights, Path(place))
        few = found["too_few"]
        if not few:
            result["curate"] = kept = curated(config, nights, Path(place))
            few = kept["too_few"]
            begin = "the base" if live is None else f"generation {live}"
            if kept["looked_up"]:
                said.append(f"{kept['looked_up']} rows would be indexed instead of learned")
            said.append(
                f"{found['new']} new of {found['total']} examples: {kept['train']} to train on, {kept['held_out']} "
                f"held out, from {begin}"
            )
    said += [few] if few else []
    said += [f"left out of {each['store']}: {len(each['rows'])} × {each['reason']}" for each in _left_out(result)]
    return {"would_run": not refused and why is None and few is None, "said": said, **result}


def _left_out(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for step in ("gather", "curate") if result[step] for each in result[step]["left_out"]]
