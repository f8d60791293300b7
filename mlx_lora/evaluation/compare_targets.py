"""Comparison of targets on the same cases, one in memory at a time; the last is judged by the one before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import FORMAT, check_directory, locked_directory, write_json
from ..runs.resolve import Reference, resolve
from .answers import NOT_ASKED
from .heldout import HeldoutPart, read_heldout, training_length
from .measurement import Measurement, Progress, Session, Stop
from .runner import Evaluation, prepare_suites
from .scorers.base import Score
from .statistics.collapse import CollapseStop
from .statistics.comparison import Comparison, HeldoutRows, compare
from .statistics.paired_rates import Pair
from .suite import find_suites
from .views.html_report import write_comparison

RESULT, PAGE = "compare.json", "compare.html"


@dataclass
class TargetComparison:
    """Measurements of all targets, in the order in which they were named, and the verdict on the last.

    Attributes:
        summary: what `compare --json` prints.
    """

    targets: list[Measurement]
    comparison: Comparison
    summary: dict[str, Any]


def compare_targets(
    names: Sequence[str],
    suites: str | None = None,
    *,
    progress: Progress,
    notes: Callable[[Sequence[str]], None],
    data: Sequence[Path] = (),
    cases: Path | None = None,
    anchors: Sequence[str] = (),
    reruns: int | None = None,
    out: Path | None = None,
    backend: str | None = None,
    **generation: Any,
) -> TargetComparison:
    """Compare targets; everything is read and checked before the first one is loaded.

    Args:
        names: at least two: the last is the candidate, the one before it the reference; others are only shown.
        suites: names, groups or files, separated by commas.
        data: datasets whose held-out loss is compared, each a part of its own.
        cases: see ``session.evaluate_suites``.
        anchors: targets against which the candidate is judged too.
        reruns: further runs of the reference to find unstable cases; by default 2 where answers are sampled, else 1.
        out: directory of the results and their page; it keeps the answers, so that an interrupted comparison asks only
            what is missing.
        generation: ``max_tokens``, ``temperature`` and ``seed``; None is each suite's own.

    Raises:
        UserError: nothing to compare, or see ``find_suites``, ``prepare``, ``read_heldout``, ``open_target`` and
            ``run_suite``; a target that answers no case of a suite; losses that are not comparable.
    """
    if len(names) < 2:
        raise UserError("a comparison needs two targets: the reference, then the candidate")
    if out is not None:
        check_directory(out)
    found = {name: resolve(name) for name in dict.fromkeys([*names, *anchors])}
    if cases is not None and suites is None:
        raise UserError(f"--cases {cases}: these are the cases of a suite; name it with --suites")
    evaluations = [] if suites is None else prepare_suites(find_suites(suites), cases, generation)
    parts = [read_heldout(directory) for directory in data]
    _check(found, names, evaluations, parts, anchors)
    if reruns is None:
        sampled = any(evaluation.suite.generation.temperature > 0 for evaluation in evaluations)
        reruns = (2 if sampled else 1) if evaluations else 0
    length = training_length([found[name].run for name in (names[-1], names[-2])])
    session = Session(evaluations, parts, length, out, backend or "auto", progress, notes)
    # Answers of two comparisons must not meet in one file.
    with locked_directory(out, "another comparison is writing there; wait for it, or choose another --out"):
        others = {
            name: session.measure(name, reruns=reruns if name == names[-2] else 0, heldout=name in names[:-1])
            for name in dict.fromkeys([*names[:-1], *anchors])
        }
        reference, stop = others[names[-2]], CollapseStop()
        candidate = session.measure(names[-1], stop=collapse_watch(stop, reference))
    anchored = {name: others[name] for name in anchors}
    comparison = _compare(evaluations, parts, candidate, reference, anchored, stop)
    targets = [*(others[name] for name in names[:-1]), candidate]
    summary = summarize(targets, anchored, comparison)
    if out is not None:
        write_json(out / RESULT, {"format": FORMAT, **summary})
        write_comparison(out / PAGE, summary, list(candidate.reports.values()), list(reference.reports.values()))
    return TargetComparison(targets, comparison, summary)


def _check(
    found: Mapping[str, Reference],
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    parts: Sequence[HeldoutPart],
    anchors: Sequence[str],
) -> None:
    if not evaluations and not parts:
        raise UserError("there is nothing to compare; give suites with --suites NAMES, or rows with --data DIR")
    if anchors and not evaluations:
        raise UserError(f"--anchor {anchors[0]}: an anchor is compared by its answers; give suites with --suites NAMES")
    twice = [part.name for number, part in enumerate(parts) if part.name in {p.name for p in parts[:number]}]
    if twice:
        raise UserError(f"{twice[0]}: this dataset is given twice; name each part once")
    for name in names[-2:]:
        if parts and found[name].model is None:
            raise UserError(
                f"{name}: a held-out loss (--data) needs a run or a base model, which is loaded here; "
                "compare this target by its answers, with --suites"
            )


def collapse_watch(stop: CollapseStop, reference: Measurement) -> Stop:
    """Return a function that counts the candidate's new scores of a suite, and returns True when it has collapsed."""
    counted: dict[str, int] = {}

    def watch(suite: str, scores: Sequence[Score]) -> bool:
        before = counted.get(suite, 0)
        counted[suite] = len(scores)
        results = reference.reports[suite]["results"][before : len(scores)]
        for score, result in zip(scores[before:], results, strict=False):
            if stop.stopped_after is None and result["error"] is None:
                stop.add(score.passed, result["passed"])
        return stop.stopped_after is not None

    return watch


def _compare(
    evaluations: Sequence[Evaluation],
    parts: Sequence[HeldoutPart],
    candidate: Measurement,
    reference: Measurement,
    anchors: Mapping[str, Measurement],
    stop: CollapseStop,
) -> Comparison:
    suites = [evaluation.suite for evaluation in evaluations if evaluation.suite.name in candidate.reports]
    return compare(
        {suite.name: suite_pairs(candidate, reference, suite.name) for suite in suites},
        pool={suite.name for suite in suites if suite.gate == "ship"} or None,
        reruns=reference.reruns,
        heldout={part.name: _heldout_rows(part, candidate, reference) for part in parts},
        anchors={
            name: [
                (f"{suite.name}: {case}", first, second)
                for suite in suites
                for case, first, second in suite_pairs(candidate, anchor, suite.name)
            ]
            for name, anchor in anchors.items()
        },
        stopped_after=stop.stopped_after,
    )


def suite_pairs(candidate: Measurement, other: Measurement, suite: str) -> list[Pair]:
    """Return the pairs of a suite's cases that the other target answered and the candidate was asked."""
    results = zip(candidate.reports[suite]["results"], other.reports[suite]["results"], strict=True)
    return [
        (first["id"], first["passed"], second["passed"])
        for first, second in results
        if first["error"] != NOT_ASKED and second["error"] is None
    ]


def _heldout_rows(part: HeldoutPart, candidate: Measurement, reference: Measurement) -> HeldoutRows:
    first, second = candidate.losses[part.name], reference.losses[part.name]
    if first.tokens_sha256 != second.tokens_sha256:
        raise UserError(
            f"{part.name}: {candidate.name} and {reference.name} read these rows as other tokens (their tokenizers or "
            "chat templates differ), so their losses a token are not comparable; compare them with --suites alone"
        )
    return HeldoutRows(first.losses, second.losses, part.clusters)


def summarize(
    targets: Sequence[Measurement], anchors: Mapping[str, Measurement], comparison: Comparison
) -> dict[str, Any]:
    """Return what `compare --json` prints: the comparison, and the rates of all targets."""
    *_, reference, candidate = targets
    roles = ["shown"] * (len(targets) - 2) + ["reference", "candidate"]
    only_anchors = [anchor for anchor in anchors.values() if all(anchor is not target for target in targets)]
    rows = [*zip(targets, roles, strict=True), *((anchor, "anchor") for anchor in only_anchors)]
    return {
        "reference": reference.name,
        "candidate": candidate.name,
        **comparison.as_dict(),
        "reruns": len(reference.reruns),
        "targets": [_rates(target, role, candidate) for target, role in rows],
        "warnings": [*_left_out(reference), *(w for target, _ in rows for w in _warnings(target, comparison))],
    }


def _rates(target: Measurement, role: str, candidate: Measurement) -> dict[str, Any]:
    keys = ("suite", "gate", "passed", "total_tests", "not_answered", "pass_rate", "measure", "score", "gate_passed")
    return {
        "target": target.name,
        "role": role,
        "suites": [{key: report[key] for key in keys} for report in target.reports.values()],
        "heldout_loss": [
            {
                "part": part,
                "rows": len(losses.losses),
                "tokens": sum(losses.tokens),
                "loss": losses.mean if math.isfinite(losses.mean) else None,
                "comparable": losses.tokens_sha256 == candidate.losses[part].tokens_sha256,
            }
            for part, losses in target.losses.items()
        ],
        "performance": target.performance,
    }


def _left_out(reference: Measurement) -> list[str]:
    counts = {name: report["not_answered"] for name, report in reference.reports.items()}
    return [
        f"{name}: {count} cases that the reference did not answer are left out"
        for name, count in counts.items()
        if count
    ]


def _warnings(target: Measurement, comparison: Comparison) -> list[str]:
    # Of a suite that was stopped most cases were not asked.
    reports = [] if comparison.stopped_after is not None else target.reports.values()
    said = [(f"{target.name}, {report['suite']}", warning) for report in reports for warning in report["warnings"]]
    return [f"{target.name}: {text}" for text in target.warnings] + [
        f"{where}: {warning}" for where, warning in said if warning not in target.warnings
    ]
