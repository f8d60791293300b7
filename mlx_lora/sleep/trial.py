"""Trial of a promoted generation: a smoke test of what is live, under the name that programs use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..evaluation.cases import Case
from ..evaluation.heldout import training_length
from ..evaluation.measurement import Measurement, Probe, Progress, Session
from ..evaluation.runner import Evaluation, prepare_suites
from ..evaluation.suite import Generation, find_suites
from ..files import locked_directory
from ..runs.resolve import resolve_model_or_run
from .judgement.evidence import SMALL, counted
from .judgement.heldout_rows import HeldoutNight, mark_stock_phrases, read_nights, score_answers
from .judgement.judge import no_progress, not_finite

# Newest nights whose prompts are asked, and prompts of each.
NIGHTS, ASKED = 3, 8
# Collapsed answers, and their share, that fail a trial: no reference says how many are usual.
COLLAPSED, COLLAPSED_SHARE = 3, 0.5
HELLO = Probe("hello", [Case("hello", [{"role": "user", "content": "Hello, how are you?"}])], Generation(32))


def try_out(
    target: str,
    parts: Mapping[str, Path],
    suites: str | None,
    out: Path,
    *,
    backend: str = "auto",
    progress: Progress = no_progress,
    notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> tuple[bool, str]:
    """Try what is live, and return True with what it did, or False with what is wrong.

    It must load, give finite losses on held-out rows and answers that have not collapsed, and pass the suites: the ship
    suites among them, or all where none is.

    Args:
        target: name of what is live, such as ``adapters/agent@live``.
        parts: night → dataset directory, of which the validation split is used.
        out: directory of the answers.

    Raises:
        UserError: a suite or a dataset cannot be read, or ``out`` is in use: nothing was tried.
    """
    nights = read_nights(dict(list(parts.items())[-NIGHTS:]), ASKED)
    evaluations = [] if suites is None else prepare_suites(find_suites(suites), None, {})
    with locked_directory(out, "another trial is writing there; wait for it"):
        try:
            found = resolve_model_or_run(target)
            if found.adapter is not None and (said := not_finite(found.adapter)):
                return False, said
            length = training_length([found.run])
            probes = [night.probe for night in nights if night.cases] or [HELLO]
            session = Session(evaluations, [n.part for n in nights], length, out, backend, progress, notes, probes)
            measured = session.measure(target, probe=lambda name, replies: False)
        except UserError as error:
            return False, str(error)
    faults = [*_faults(measured, nights), *_failed(measured, evaluations)]
    if faults:
        return False, f"{target}: {'; '.join(faults)}"
    count = sum(len(replies) for replies in measured.replies.values())
    passed = f", and {counted(len(evaluations), 'suite')} passed" if evaluations else ""
    return True, f"{target} loads and answers: {counted(count, 'answer')}, none of concern{passed}"


def _faults(measured: Measurement, nights: Sequence[HeldoutNight]) -> list[str]:
    """Return what is wrong with losses and answers, a clause each."""
    if measured.broken:
        return ["its held-out loss is not finite"]
    texts = [reply.text or "" for replies in measured.replies.values() for reply in replies]
    if not any(text.strip() for text in texts):
        return [f"it gave no answer to {counted(len(texts), 'prompt')}"]
    asked = [night for night in nights if night.cases]
    answers = [
        answer
        for night in asked
        for answer in score_answers(night, measured.replies[night.probe.name], {})
        if answer is not None
    ]
    mark_stock_phrases(answers)
    collapsed = sum(answer.collapsed for answer in answers)
    if collapsed >= COLLAPSED and collapsed >= COLLAPSED_SHARE * len(answers):
        return [f"{collapsed} of {counted(len(answers), 'answer')} have collapsed"]
    stored = {str(case.expect) for night in asked for case in night.cases}
    if len(answers) > 1 and len(stored) >= SMALL and len({answer.text for answer in answers}) == 1:
        return [f"it gives one answer to {counted(len(answers), 'prompt')}"]
    return []


def _failed(measured: Measurement, evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the suites that must pass and have not, a clause each."""
    if measured.broken:
        return []
    ship = [evaluation for evaluation in evaluations if evaluation.suite.gate == "ship"]
    reports = [measured.reports[evaluation.suite.name] for evaluation in ship or evaluations]
    return [
        f"{report['suite']} failed ({'; '.join(report['reasons'])})" for report in reports if not report["gate_passed"]
    ]
