"""Judgement of a night's candidate: held-out losses, answers, suites and anchors, beside what is live.

One model is in memory at a time: base, best, reference, then the candidate. What they answered is kept in a directory,
so that an interrupted judgement asks only what is missing, and the milder candidates of the night ask the others
nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.adapter_format import ADAPTER_FILE
from ...evaluation.heldout import training_length
from ...evaluation.measurement import Progress, Session
from ...evaluation.runner import prepare_suites
from ...evaluation.suite import find_suites
from ...export.tensors import read_header, to_float32
from ...files import locked_directory
from ...models.resolve import check_safetensors
from ...runs.resolve import resolve_model_or_run
from ..checks import RowCheck
from .assessment import Assessment, Judgement
from .evidence import SleepCheck
from .heldout_rows import read_nights
from .measurement import measure


@contextmanager
def no_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda done: None


def judge(
    candidate: Path,
    reference: str,
    *,
    base: str,
    best: str | None,
    parts: Mapping[str, Path],
    suites: str | None,
    checks: Mapping[str, RowCheck],
    out: Path,
    evidence: Sequence[Mapping[str, Any]] = (),
    backend: str = "auto",
    progress: Progress = no_progress,
    notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> Judgement:
    """Judge a candidate beside the live adapter; see ``loss_verdicts`` and ``answer_verdicts`` for what is asked of it.

    Args:
        reference: the live adapter, or the base where there is none.
        best: the best adapter ever, or None.
        parts: night → dataset directory, of which the validation split is used; the last one is tonight's.
        suites: names, groups or files, separated by commas.
        checks: of the rows, by the store's name.
        out: directory of the answers; the same one for all candidates of a night.
        evidence: ``pairs`` of the judgements of all earlier nights whose candidates were not promoted, the worse ones
            too (see ``non_inferiority``), one a night; those against another live adapter are left aside.

    Raises:
        UserError: a target cannot be opened, a suite or a dataset cannot be read, or ``out`` is in use.
    """
    if said := not_finite(candidate):
        check = SleepCheck("adapter", "loss", "worse", said)
        return Judgement("worse", False, [said], [asdict(check)])
    nights = read_nights(parts)
    evaluations = [] if suites is None else prepare_suites(find_suites(suites), None, {})
    if not nights and not evaluations:
        said = "there is no held-out row yet and no suite, so nothing can judge the candidate; it waits for more rows"
        return Judgement("inconclusive", False, [said], [])
    names = {"base": base, "best": best, "reference": reference, "candidate": str(candidate)}
    found = {role: resolve_model_or_run(name) for role, name in names.items() if name is not None}
    length = training_length([found["candidate"].run, found["reference"].run])
    probes = [night.probe for night in nights if night.cases]
    session = Session(evaluations, [n.part for n in nights], length, out, backend, progress, notes, probes)
    with locked_directory(out, "another judgement is writing there; wait for it, or choose another directory"):
        measured = measure(session, nights, checks, found)
    if measured is None:
        notes(
            [f"{reference}: what is live gives losses that are not finite, so the candidate is judged beside the base"]
        )
        options: dict[str, Any] = {"backend": backend, "progress": progress, "notes": notes}
        return judge(
            candidate, base, base=base, best=None, parts=parts, suites=suites, checks=checks, out=out, **options
        )
    tonight = next(reversed(list(parts)), "")
    return Assessment(measured, nights, evaluations, tonight, set(checks), found, notes).judgement(evidence)


def not_finite(adapter: Path) -> str | None:
    """Return a sentence if an adapter holds a number that is not finite.

    Raises:
        UserError: its file is missing or broken.
    """
    file = adapter / ADAPTER_FILE
    check_safetensors(file)
    for name, stored in read_header(file).items():
        if not np.isfinite(to_float32(stored.read(), stored.dtype)).all():
            return f"{file}: {name} holds a number that is not finite, so the training of it had failed"
    return None
