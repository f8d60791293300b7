"""Choice of a night's candidate: the adapter as trained, or the mildest change of it that must be made to pass."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..export.mixing import mix_adapters
from .checks import row_checks
from .context import Cycle
from .judgement.judge import Judgement, judge
from .learning import RUN
from .nights import DATA, Nights, evidence

CANDIDATES, JUDGE = "candidates", "judge"


def choose(cycle: Cycle, nights: Nights) -> dict[str, Any]:
    """Judge the night's adapter, and milder ones where it fails, and return the candidates and the chosen share.

    Raises:
        UserError: see ``judge``.
    """
    directory = cycle.record.directory
    found = [_judged(cycle, nights, 1.0, directory / RUN)]
    if found[0]["verdict"] == "worse":
        for alpha in sorted(cycle.config.merge, reverse=True):
            place = directory / CANDIDATES / f"{alpha:g}"
            if not place.exists():
                mix_adapters(cycle.live, directory / RUN, alpha, place)
            found.append(_judged(cycle, nights, alpha, place))
            if found[-1]["passed"]:
                break
    chosen = next((each["alpha"] for each in found if each["passed"]), None)
    for each in found:
        if each["alpha"] not in (1.0, chosen):
            shutil.rmtree(each["path"], ignore_errors=True)
    return {"candidates": found, "chosen": chosen}


def parts_of(cycle: Cycle, nights: Nights) -> Mapping[str, Path]:
    """Return night → dataset of every night that is judged; tonight's is the last."""
    return {**nights.learned, cycle.record.key: cycle.record.directory / DATA}


def _judged(cycle: Cycle, nights: Nights, alpha: float, candidate: Path) -> dict[str, Any]:
    config, generations = cycle.config, cycle.generations
    parent, best = cycle.record.content["parent"], generations.best
    cycle.around.step("judge" if alpha == 1 else f"judge {alpha:g} of the change")
    found: Judgement = judge(
        candidate,
        config.model_name if parent is None else str(generations.path(parent)),
        base=config.model_name,
        best=str(generations.path(best)) if best is not None and best != parent else None,
        parts=parts_of(cycle, nights),
        suites=config.suites,
        checks=row_checks(config.stores),
        out=cycle.record.directory / JUDGE,
        evidence=evidence(cycle.before, parent) if alpha == 1 else (),
        backend=config.training().backend,
        progress=cycle.around.progress,
        notes=cycle.around.notes,
    )
    gc.collect()
    return {"alpha": alpha, "path": str(candidate), **asdict(found)}
