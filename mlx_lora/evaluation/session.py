"""Evaluation session: one target on several suites, with their reports in one directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_directory, check_writable, file_lock, write_json, writing
from .eisv_cases import with_shape
from .gates import judge_reports
from .html_report import write_html
from .inspect_log import check_inspect, write_inspect_logs
from .remote_targets import EngineTarget
from .runner import Evaluation, prepare, run_suite
from .suite import Generation, Suite, find_suites, load_suite, published_suites
from .target import Target
from .targets import ModelTarget, open_target

FINAL, PAGE, LOCK = "eval_report_final.json", "report.html", ".lock"
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Result:
    """Reports of a session, and the summary that is printed: one report without its results, or the final report."""

    reports: list[dict[str, Any]]
    summary: dict[str, Any]


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
    if cases is not None and len(found) > 1 and all(suite.cases for suite in found):
        raise UserError(f"--cases {cases}: each of these suites has cases of its own; name one suite to replace them")
    if inspect:
        check_inspect(None if into_file else out)
    evaluations = [_prepare(suite, cases, hide_shape, len(found) > 1) for suite in found]
    opened = open_target(target, backend or "auto", timeout)
    if isinstance(opened, ModelTarget):
        notes(opened.backend.precision)
    directory = None if into_file else out
    try:
        with _locked(directory):
            reports = [_run(evaluation, opened, directory, progress, generation) for evaluation in evaluations]
    finally:
        if isinstance(opened, EngineTarget):
            opened.close()
    if inspect and directory is not None:
        write_inspect_logs(directory, evaluations, reports)
    if out is not None and into_file:
        write_json(out, reports[0])
    final = judge_reports(reports, {suite.name: suite.gate for suite in found})
    if directory is not None:
        write_json(directory / FINAL, final)
        write_html(directory / PAGE, final, reports)
    short = [{key: value for key, value in r.items() if key not in ("results", "answers")} for r in reports]
    return Result(reports, short[0] if len(reports) == 1 else {"suites": short, **final})


@contextmanager
def _locked(directory: Path | None) -> Iterator[None]:
    """Create a directory of reports and hold its lock: answers of two evaluations must not meet in one file."""
    if directory is None:
        yield
        return
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    held = f"{directory}: another evaluation is writing there; wait for it, or choose another --out"
    with file_lock(directory / LOCK, held):
        yield


def _check_out(out: Path, into_file: bool, count: int) -> None:
    if into_file and count > 1:
        raise UserError(f"{out}: {count} suites have a report each; give a directory to --out")
    if into_file:
        check_writable(out)
    else:
        check_directory(out)


def _prepare(suite: Suite, cases: Path | None, hide_shape: bool, several: bool) -> Evaluation:
    evaluation = prepare(suite, None if several and suite.cases is not None else cases)
    if hide_shape and suite.reader != "eisv":
        raise UserError(f"{suite.name}: --hide-shape is for suites of trajectories, such as eisv_gate1")
    asked = with_shape(evaluation.cases, named=False) if hide_shape else evaluation.cases
    return replace(evaluation, cases=asked, about={**evaluation.about, "hide_shape": hide_shape})


def _run(
    evaluation: Evaluation, target: Target, directory: Path | None, progress: Progress, generation: dict[str, Any]
) -> dict[str, Any]:
    own = evaluation.suite.generation
    settings = Generation(**{**vars(own), **{key: value for key, value in generation.items() if value is not None}})
    with progress(f"{evaluation.suite.name}: {target.name}", len(evaluation.cases)) as advance:
        return run_suite(evaluation, target, generation=settings, out=directory, advance=advance)
