"""Report files: read what `mlx-lora eval --out` wrote, and judge it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ..data.dataset import is_number
from ..errors import UserError
from ..files import check_format
from ..user_files import read_text
from .gates import UNUSABLE, judge_reports
from .suite import Suite, find_suites

AGAIN = "write it with `mlx-lora eval --out`"
# Reports with every answer of some hundred cases.
MOST_BYTES = 2**28


def judge_files(
    paths: Sequence[Path], suites: str | None = None, waivers: Sequence[str] = (), on_inconclusive: str = "pass"
) -> dict[str, Any]:
    """Judge report files, or the reports in directories; see ``judge_reports``.

    Args:
        suites: those that must have a report, by name or group.
        waivers: ``SUITE=REASON``.

    Returns:
        The final report, and of one report alone its ``suite``, ``target``, ``criteria``; always ``gate_passed``,
        ``reasons`` and ``warnings``. One report alone is judged by its gate, several by the overall score too.

    Raises:
        UserError: a file is missing or is not a report, or a waiver is not ``SUITE=REASON``.
    """
    reports = [report for path in paths for report in _reports(path, suites is not None)]
    _check_one_target(reports)
    expected = None if suites is None else find_suites(suites)
    final = judge_reports(
        [_of_suites(report, expected or []) for report in reports],
        None if expected is None else {suite.name: suite.gate for suite in expected},
        _waivers(waivers),
        on_inconclusive=cast(Literal["pass", "block"], on_inconclusive),
    )
    alone = len(final["test_results"]) == 1 and len(reports) == 1
    result = final["test_results"][0]
    passed = result["status"] in ("PASSED", "WAIVED") if alone else final["cleared_for_deployment"]
    about = {key: reports[0].get(key) for key in ("suite", "target", "criteria")} if alone else {}
    reasons = result["reasons"] if alone else final["reasons"]
    warnings = [warning for report in reports for warning in report.get("warnings", [])]
    return {**final, **about, "gate_passed": passed, "reasons": reasons, "warnings": warnings}


def read_report(file: Path) -> dict[str, Any]:
    """Read one suite's report.

    Raises:
        UserError: the file is missing, not JSON, of a later version, or not a report.
    """
    try:
        report = json.loads(read_text(file, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: this report cannot be read ({error}); {AGAIN}") from error
    if not isinstance(report, dict):
        raise UserError(f"{file}: this is not a report, which is a JSON object; {AGAIN}")
    check_format(report, file)
    if not isinstance(report.get("test_name"), str):
        raise UserError(f"{file}: this is not a report: it has no test_name; {AGAIN}")
    for name in ("pass_rate", "threshold"):
        if name in report and not is_number(report[name]):
            raise UserError(f"{file}: {name} must be a finite number; {AGAIN}")
    try:
        json.dumps(report, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{file}: it holds a number that is not finite; {AGAIN}") from error
    warnings = report.setdefault("warnings", [])
    if not (isinstance(warnings, list) and all(isinstance(warning, str) for warning in warnings)):
        raise UserError(f"{file}: warnings must be a list of sentences; {AGAIN}")
    return report


def _check_one_target(reports: Sequence[Mapping[str, Any]]) -> None:
    named = [report for report in reports if isinstance(report.get("target"), str)]
    names = list(dict.fromkeys(report["target"] for report in named))
    if len(names) > 1:
        raise UserError(f"these reports are of several targets ({', '.join(names[:4])}); give those of one")
    identities = {str(report["target_identity"]) for report in named if "target_identity" in report}
    if len(identities) > 1:
        raise UserError(
            f"{names[0]} has changed between these reports; run the evaluation again, each suite on the same"
        )


def _reports(path: Path, expected: bool) -> list[dict[str, Any]]:
    """Return the report of a file, or those of a directory, in which an unreadable one blocks its suite.

    Args:
        expected: the suites are named, so that a directory without a report is of use: all of them are blocked.
    """
    if not path.is_dir():
        return [read_report(path)]
    files = sorted(path.glob("report_*.json"))
    if not files and not expected:
        raise UserError(f"{path}: there is no report_*.json in this directory; {AGAIN} {path}")
    return [_report_or_reason(file) for file in files]


def _report_or_reason(file: Path) -> dict[str, Any]:
    try:
        return read_report(file)
    except UserError as error:
        return {"test_name": file.stem.removeprefix("report_"), UNUSABLE: str(error)}


def _of_suites(report: dict[str, Any], suites: Sequence[Suite]) -> dict[str, Any]:
    """Return a report, or why it does not count: it is of other checks or thresholds than its suite has now."""
    name, recorded = report["test_name"], report.get("suite_sha256")
    changed = recorded is not None and any(s.name == name and s.sha256() != recorded for s in suites)
    said = "the suite's checks or thresholds have changed since this report; run the evaluation again"
    return {"test_name": name, UNUSABLE: said} if changed else report


def _waivers(given: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for waiver in given:
        suite, equals, reason = waiver.partition("=")
        if not equals:
            raise UserError(f"--waive {waiver}: it must be SUITE=REASON")
        found[suite.strip()] = reason.strip()
    return found
