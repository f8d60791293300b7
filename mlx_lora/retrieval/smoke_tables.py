"""Table and lines for the terminal from a smoke report."""

from __future__ import annotations

from ..evaluation.views.report_tables import Table
from .smoke import SmokeReport

WORDS = {"passed": "passed", "failed": "FAILED", "not_run": "not run"}
COUNTED = {
    "server": "counted by the program that runs it",
    "client": "measured here",
    "process": "of this process",
    None: "",
}


def smoke_table(report: SmokeReport) -> Table:
    """Return the table of the tests, with load time and rate below."""
    rows = [
        (test.name, WORDS[test.status], _seconds(test.seconds), f"< {test.limit_s:g} s", test.measured)
        for test in report.tests
    ]
    rows.append(("load time", "", _seconds(report.load_s), "", "" if report.load_s is None else "by the server"))
    rate = "–" if report.tokens_per_s is None else f"{report.tokens_per_s:,.1f}"
    rows.append(("tokens a second", "", rate, "", COUNTED[report.counted_by]))
    return f"Smoke tests of {report.target}", ("test", "result", "measured", "limit", ""), rows


def smoke_lines(report: SmokeReport) -> list[str]:
    """Return the failures and what was not run, then the verdict."""
    skipped = [f"{test.name} was not run: {test.reason}" for test in report.tests if test.status == "not_run"]
    verdict = "FAILED" if report.failures else "passed"
    return [*(f"  {failure}" for failure in report.failures), *(f"  {line}" for line in skipped), verdict]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f} s"
