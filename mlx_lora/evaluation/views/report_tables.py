"""Tables for the terminal from suite reports, gates and comparisons: (title, columns, rows), and the lines below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .report_views import more_cases, performance_of

Row = tuple[str, ...]
Table = tuple[str, Row, Sequence[Row]]

MARKS = {True: "yes", False: "NO"}
# Fields of every report that the table of one report does not repeat.
METRICS = (
    "mean_coherence",
    "balanced_coherence",
    "valid_rate",
    "pattern_accuracy",
    "diversity",
    "f1",
    "precision",
    "recall",
    "schema",
    "citation",
    "entailment",
    "similarity",
    "stock_phrases",
    "expected_retries",
)
SHOWN_FAILURES = 5
OUTCOMES = {
    "better": "BETTER: the candidate {} is better than the reference {}",
    "not_worse": "NOT WORSE: the candidate {} is not worse than the reference {}",
    "worse": "WORSE: the candidate {} is worse than the reference {}",
    "inconclusive": "INCONCLUSIVE: not settled if the candidate {} is as good as the reference {}",
}


def suites_table(suites: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of the published suites."""
    rows = [
        (
            suite["suite"],
            suite["gate"],
            ", ".join(f"{metric.replace('_', ' ')} {limit}" for metric, limit in suite["thresholds"].items()),
            "its own" if suite["own_cases"] else "--cases",
            suite["description"],
        )
        for suite in suites
    ]
    return "", ("suite", "gate", "threshold", "cases", ""), rows


def report_table(report: Mapping[str, Any]) -> Table:
    """Return the table of one suite's report."""
    best, n = report["best_constant"], report["total_tests"]
    constant = "not tried" if best is None else f"{best['score']:.3f} ({_short(best['answer'])})"
    rows = [(c["criterion"], c["asked"], f"{c['reached']:.3f}", MARKS[c["met"]]) for c in report["criteria"]]
    rows += [
        ("passed", "", f"{report['passed']} of {n}", ""),
        ("verdict beyond these cases", "", f"{report['verdict']} ({_interval(report)})", ""),
        ("mean over classes (balanced)", "", f"{report['balanced']:.3f}", ""),
        ("best constant answer", "", constant, ""),
        ("distinct answers", "", f"{report['distinct_answers']} of {n}", ""),
    ]
    named = {c["criterion"].replace(" ", "_") for c in report["criteria"]}
    rows += [
        (m.replace("_", " "), "", f"{report[m]:.3f}", "")
        for m in METRICS
        if report.get(m) is not None and m not in named
    ]
    rows += [(f"  {k}", "", f"{v:.3f}", "") for k, v in sorted(report.get("per_shape_coherence", {}).items())]
    if "tokens_in_use" in report:
        rows.append(("tokens in use", "", f"{report['tokens_in_use']} of 15", ""))
    rows += [(name, "", text, "") for name, text in performance_of([report]).items()]
    rows.append((f"{report['gate']} gate", "", _gate_word(report), ""))
    title = f"{report['suite']}: {report['target']} on {report['cases']}"
    return title, ("measure", "asked for", "reached", "met"), rows


def first_failures(report: Mapping[str, Any]) -> list[str]:
    """Return the first cases that failed, with the reasons."""
    failed = [result for result in report["results"] if not result["passed"]]
    return [f"  {result['id']}: {_short(result['reason'], 200)}" for result in failed[:SHOWN_FAILURES]]


def evaluation_table(reports: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of several suites' reports."""
    rows = [
        (
            report["suite"],
            report["gate"],
            f"{report['score']:.3f} ({report['measure'].replace('_', ' ')})",
            report["criteria"][0]["asked"],
            f"{report['passed']} of {report['total_tests']}",
            _interval(report),
            _gate_word(report),
        )
        for report in reports
    ]
    columns = ("suite", "gate", "reached", "asked for", "passed", "95 % interval", "")
    return f"{reports[0]['target']} on {len(reports)} suites", columns, rows


def gates_table(final: Mapping[str, Any]) -> Table:
    """Return the table of each suite's status in a final report."""
    rows = [
        (
            result["test_name"],
            result["gate"],
            "" if result["pass_rate"] is None else f"{result['passed']} of {result['total_tests']}",
            result["verdict"] or "",
            result["status"] + (f": {result['waiver']}" if result["waiver"] else ""),
        )
        for result in final["test_results"]
    ]
    target = f" of {final['target']}" if final.get("target") else ""
    return f"Gates{target}", ("suite", "gate", "passed", "verdict", "status"), rows


def decision(final: Mapping[str, Any]) -> list[str]:
    """Return whether a model is cleared for deployment, and why not."""
    score = f"overall {final['overall_score']:.3f}, {final['target_score']:g} is asked for"
    cleared = "cleared for deployment" if final["cleared_for_deployment"] else "NOT cleared for deployment"
    return [f"{cleared} ({score})", *(f"  {reason}" for reason in final["reasons"])]


def comparison_tables(found: Mapping[str, Any]) -> list[Table]:
    """Return all targets side by side, and the differences of candidate and reference where there are any."""
    columns = ("", *(f"{target['role']}: {target['target']}" for target in found["targets"]))
    tables: list[Table] = [("All targets on the same cases", columns, _side_by_side(found["targets"]))]
    rows = [_difference(suite["suite"], suite, f"{suite['p_adjusted']:.3g}") for suite in found["suites"]]
    if rows:
        rows.append(_difference("pooled", found["pooled"], ""))
    rows += [_difference(f"anchor {anchor['anchor']}", anchor, "") for anchor in found["anchors"]]
    if rows:
        title = f"Candidate {found['candidate']} minus reference {found['reference']}, in points"
        tables.append((title, ("", "cases", "won", "lost", "points", "95 % bounds", "p", "verdict"), rows))
    return tables


def limits_of_comparison(found: Mapping[str, Any]) -> list[str]:
    """Return what a comparison's cases can find, and the cases that it leaves out."""
    lines = []
    detectable = found["pooled"]["detectable"]
    if detectable is not None:
        lines.append(f"smallest difference that these cases find: {100 * detectable:.1f} points")
    unstable = [f"{case['suite']}: {case['id']}" for case in found["unstable"]]
    if unstable:
        more = f" and {len(unstable) - SHOWN_FAILURES} more" if len(unstable) > SHOWN_FAILURES else ""
        names = ", ".join(unstable[:SHOWN_FAILURES])
        lines.append(f"left out, since the reference's own runs disagree: {names}{more}")
    return lines


def comparison_verdict(found: Mapping[str, Any]) -> list[str]:
    """Return a comparison's verdict, and the reasons."""
    verdict = OUTCOMES[found["verdict"]].format(found["candidate"], found["reference"])
    return [verdict, *(f"  {reason}" for reason in found["reasons"])]


def _interval(report: Mapping[str, Any]) -> str:
    low, high = report["interval"]
    needed = more_cases(report.get("cases_needed"))
    return f"{low:.3f} to {high:.3f}" + (f"; {needed}" if needed else "")


def _gate_word(report: Mapping[str, Any]) -> str:
    return "passed" if report["gate_passed"] else "FAILED"


def _side_by_side(targets: Sequence[Mapping[str, Any]]) -> list[Row]:
    cells: dict[str, dict[int, str]] = {}
    for column, target in enumerate(targets):
        found = [(suite["suite"], _rate(suite)) for suite in target["suites"]]
        for part in target["heldout_loss"]:
            loss = "not finite" if part["loss"] is None else f"{part['loss']:.4f}"
            found.append((f"held-out loss, {part['part']}", loss if part["comparable"] else f"{loss}, other tokens"))
        for label, text in [*found, *performance_of([target]).items()]:
            cells.setdefault(label, {})[column] = text
    return [(label, *(row.get(column, "–") for column in range(len(targets)))) for label, row in cells.items()]


def _rate(suite: Mapping[str, Any]) -> str:
    rate = f"{100 * suite['pass_rate']:.1f} % ({suite['passed']} of {suite['total_tests']})"
    measure = suite["measure"].replace("_", " ")
    return rate if measure == "pass rate" else f"{rate}, {measure} {suite['score']:.3f}"


def _difference(name: str, rates: Mapping[str, Any], p_value: str) -> Row:
    counts = (str(rates["n"]), str(rates["wins"]), str(rates["losses"]))
    if rates["difference"] is None:
        return (name, *counts, "–", "–", p_value, rates["verdict"])
    difference, low, high = (f"{100 * rates[key]:+.1f}" for key in ("difference", "lower", "upper"))
    return (name, *counts, difference, f"{low} to {high}", p_value, rates["verdict"])


def _short(text: str, length: int = 60) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[:length] + "…"
