"""Evaluation session: one target on several suites, with their reports in one directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_directory, check_writable, locked_directory, write_json
from .eisv_cases import with_shape
from .gates import judge_reports
from .inspect_log import check_inspect, write_inspect_logs
from .runner import Evaluation, prepare_suites, run_suite
from .suite import find_suites, load_suite, published_suites
from .targets.opening import open_target
from .targets.target import Target
from .views.html_report import write_html

FINAL, PAGE = "eval_report_final.json", "report.html"
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Result:
    """Reports of a session, and the summary that is printed: one report without its results, or the final report."""

    reports: list[dict[str, Any]]
    summary: dict[str, Any]

    def exit_status(self) -> int:
        """Return 1 if several suites were judged and the target is not cleared for deployment, else 0.

        Raises:
            UserError: no case was answered.
        """
        if all(report["not_answered"] == report["total_tests"] for report in self.reports):
            first = self.reports[0]
            raise UserError(f"{first['target']}: no case was answered: {first['results'][0]['error']}")
        return 0 if len(self.reports) == 1 or self.summary["cleared_for_deployment"] else 1


def list_suites() -> list[dict[str, Any]]:
    """Return name, gate, thresholds and description of each published suite."""
    return [
        {
            "suite": suite.name,
            "gate": suite.gate,
            "thresholds": {limit.metric: str(limit) for limit in suite.limits},
            "own_cases": suite.cases is not None,
            "description": suite.description,
        }
        for suite in map(load_suite, published_suites())
    ]


def evaluate_suites(
    suites: str,
    target: str,
    *,
    progress: Progress,
    notes: Callable[[Sequence[str]], None],
    cases: Path | None = None,
    hide_shape: bool = False,
    out: Path | None = None,
    backend: str | None = None,
    timeout: float | None = None,
    inspect: bool = False,
    **generation: Any,
) -> Result:
    """Evaluate a target on suites: everything is read and checked before the target is loaded.

    Args:
        suites: names, groups or files, separated by commas.
        cases: replaces the cases of the suite; of several suites, of those that have none of their own.
        out: directory, or a ``.json`` file for the report of one suite.
        timeout: seconds that another program may take for one conversation.
        inspect: write a log of Inspect beside each report.
        generation: ``max_tokens``, ``temperature`` and ``seed``; None is the suite's own.

    Raises:
        UserError: see ``find_suites``, ``prepare``, ``open_target`` and ``run_suite``.
    """
    found = find_suites(suites)
    into_file = out is not None and (out.suffix == ".json" or (len(found) == 1 and out.is_file()))
    if out is not None:
        _check_out(out, into_file, len(found))
    if inspect:
        check_inspect(None if into_file else out)
    evaluations = [_shown(evaluation, hide_shape) for evaluation in prepare_suites(found, cases, generation)]
    directory = None if into_file else out
    with closing(open_target(target, backend or "auto", timeout)) as opened:
        notes(opened.notes)
        # Answers of two evaluations must not meet in one file.
        with locked_directory(directory, "another evaluation is writing there; wait for it, or choose another --out"):
            reports = [_run(evaluation, opened, directory, progress) for evaluation in evaluations]
    if inspect and directory is not None:
        write_inspect_logs(directory, evaluations, reports)
    if out is not None and into_file:
        write_json(out, reports[0])
    final = judge_reports(reports, {suite.name: suite.gate for suite in found})
    if directory is not None:
        write_json(directory / FINAL, final)
        write_html(directory / PAGE, final, reports)
    short = [{key: value for key, value in r.items() if key != "results"} for r in reports]
    return Result(reports, short[0] if len(reports) == 1 else {"suites": short, **final})


def _check_out(out: Path, into_file: bool, count: int) -> None:
    if into_file and count > 1:
        raise UserError(f"{out}: {count} suites have a report each; give a directory to --out")
    if into_file:
        check_writable(out)
    else:
        check_directory(out)


def _shown(evaluation: Evaluation, hide_shape: bool) -> Evaluation:
    """Return an evaluation whose prompts name the shapes, or not."""
    if hide_shape and evaluation.suite.reader != "eisv":
        raise UserError(f"{evaluation.suite.name}: --hide-shape is for suites of trajectories, such as eisv_gate1")
    asked = with_shape(evaluation.cases, named=False) if hide_shape else evaluation.cases
    return replace(evaluation, cases=asked, about={**evaluation.about, "hide_shape": hide_shape})


def _run(evaluation: Evaluation, target: Target, directory: Path | None, progress: Progress) -> dict[str, Any]:
    with progress(f"{evaluation.suite.name}: {target.name}", len(evaluation.cases)) as advance:
        return run_suite(evaluation, target, out=directory, advance=advance)
