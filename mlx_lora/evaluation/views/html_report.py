"""Evaluation report for people: ``report.html`` of one target, or of two side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...reporting import write_page
from ...reporting.interval_bar import common_scale
from ..gates import incomplete
from .comparison_views import case_pair, loss_rows, pairs_of, performance_rows, rate_rows
from .report_views import (
    as_text,
    case_view,
    criteria_of,
    performance_of,
    settings_of,
    suite_row,
    target_names,
    three_digits,
    threshold_of,
)


def write_html(path: Path, final: dict[str, Any], reports: Sequence[dict[str, Any]]) -> None:
    """Write the page of one evaluation.

    Args:
        final: return value of ``gates.judge_reports``.
        reports: those that were judged.

    Raises:
        UserError: the file cannot be written.
    """
    usable = [report for report in reports if incomplete(report) is None]
    anchors = {report["test_name"]: f"suite-{number}" for number, report in enumerate(usable, 1)}
    found = {report["test_name"]: report for report in usable}
    criteria = [criterion for report in usable for criterion in criteria_of(report)]
    ends = [end for criterion in criteria for end in criterion.get("interval") or ()]
    scale = common_scale([*ends, *map(threshold_of, criteria), *(c["reached"] for c in criteria)], high=1.0)
    write_page(
        path,
        "evaluation.html",
        target=target_names(usable),
        final=final,
        overall=three_digits(final["overall_score"]),
        performance=performance_of(usable),
        warnings=[(report["test_name"], text) for report in usable for text in report.get("warnings", [])],
        rows=[
            suite_row(result, found.get(result["test_name"]), anchors.get(result["test_name"]), scale)
            for result in final["test_results"]
        ],
        scale=[f"{end:g}" for end in scale],
        suites=[_suite(report, f"suite-{number}") for number, report in enumerate(usable, 1)],
    )


def _suite(report: Mapping[str, Any], anchor: str) -> dict[str, Any]:
    cases = [case_view(result) for result in report["results"]]
    best = report.get("best_constant")
    return {
        "anchor": anchor,
        "name": report["test_name"],
        "gate": report["gate"],
        "description": report.get("description", ""),
        "first": [case for case in cases if case["outcome"] != "passed"],
        "rest": [case for case in cases if case["outcome"] == "passed"],
        "constant": best
        and {
            "answer": as_text(best["answer"]),
            "score": three_digits(best["score"]),
            "balanced": three_digits(best.get("balanced_score")),
        },
        "settings": settings_of(report),
    }


def write_comparison(
    path: Path, comparison: dict[str, Any], reports_a: Sequence[dict[str, Any]], reports_b: Sequence[dict[str, Any]]
) -> None:
    """Write the page of a comparison of a candidate A with a reference B, their answers side by side.

    Args:
        comparison: ``Comparison.as_dict()``.

    Raises:
        UserError: the file cannot be written.
    """
    rates = [("all suites", comparison["pooled"])] if comparison["suites"] else []
    rates += [(suite["suite"], suite) for suite in comparison["suites"]]
    rates += [(f"anchor {anchor['anchor']}", anchor) for anchor in comparison["anchors"]]
    parts = (comparison["heldout_loss"] or {}).get("parts", [])
    unstable = {(case["suite"], case["id"]) for case in comparison["unstable"]}
    suites = [
        _pairs(name, f"suite-{number}", a, b, unstable)
        for number, (name, a, b) in enumerate(pairs_of(reports_a, reports_b), 1)
    ]
    write_page(
        path,
        "comparison.html",
        targets=(target_names(reports_a), target_names(reports_b)),
        comparison=comparison,
        performance=performance_rows(reports_a, reports_b),
        warnings=[
            (f"{side}, {report['test_name']}", text)
            for side, reports in (("A", reports_a), ("B", reports_b))
            for report in reports
            for text in report.get("warnings", [])
        ],
        rows=rate_rows(rates, {suite["name"]: suite["anchor"] for suite in suites}),
        losses=loss_rows(parts),
        suites=suites,
    )


def _pairs(
    name: str, anchor: str, a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, unstable: set[tuple[str, str]]
) -> dict[str, Any]:
    of_a, of_b = ({row["id"]: row for row in report["results"]} if report else {} for report in (a, b))
    pairs = [
        case_pair(case, of_a.get(case), of_b.get(case), (name, case) in unstable)
        for case in dict.fromkeys([*of_a, *of_b])
    ]
    return {
        "anchor": anchor,
        "name": name,
        "missing": next((side for side, report in (("A", a), ("B", b)) if report is None), None),
        "first": sorted((pair for pair in pairs if pair["differs"]), key=lambda pair: pair["won"]),
        "rest": [pair for pair in pairs if not pair["differs"]],
    }
