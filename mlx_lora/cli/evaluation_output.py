"""Tables of evaluation reports, gates, comparisons and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .output import print_json, print_table, print_warnings, say

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


def interval_text(report: Mapping[str, Any]) -> str:
    """Return an interval and what would settle the verdict."""
    low, high = report["interval"]
    needed = report.get("cases_needed")
    return f"{low:.3f} to {high:.3f}" + (f"; {needed:,} more cases would settle it" if needed else "")


def print_report(report: Mapping[str, Any]) -> None:
    """Print one suite's report as a table, its first failures and its warnings."""
    best, n = report["best_constant"], report["total_tests"]
    constant = "not tried" if best is None else f"{best['score']:.3f} ({_short(best['answer'])})"
    rows = [(c["criterion"], c["asked"], f"{c['reached']:.3f}", MARKS[c["met"]]) for c in report["criteria"]]
    rows += [
        ("passed", "", f"{report['passed']} of {n}", ""),
        ("verdict beyond these cases", "", f"{report['verdict']} ({interval_text(report)})", ""),
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
    rows += [(name, "", text, "") for name, text in _performance(report["performance"])]
    rows.append((f"{report['gate']} gate", "", "passed" if report["gate_passed"] else "FAILED", ""))
    title = f"{report['suite']}: {report['target']} on {report['cases']}"
    print_table(title, ("measure", "asked for", "reached", "met"), rows)
    for result in [r for r in report["results"] if not r["passed"]][:SHOWN_FAILURES]:
        say(f"  {result['id']}: {_short(result['reason'], 200)}")
    print_warnings(report["warnings"])


def _performance(measured: Mapping[str, float | None]) -> list[tuple[str, str]]:
    units = {
        "load_s": ("load time", "{:.1f} s"),
        "first_token_s": ("time to first token", "{:.2f} s"),
        "tokens_per_s": ("tokens a second", "{:,.0f}"),
    }
    rows = [(label, text.format(measured[key])) for key, (label, text) in units.items() if measured.get(key)]
    memory = measured.get("peak_memory_bytes")
    return [*rows, ("peak memory", f"{memory / 1e9:.2f} GB")] if memory else rows


def print_evaluation(final: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of several suites, and the decision."""
    rows = [
        (
            report["suite"],
            report["gate"],
            f"{report['score']:.3f} ({report['measure'].replace('_', ' ')})",
            report["criteria"][0]["asked"],
            f"{report['passed']} of {report['total_tests']}",
            interval_text(report),
            "passed" if report["gate_passed"] else "FAILED",
        )
        for report in reports
    ]
    columns = ("suite", "gate", "reached", "asked for", "passed", "95 % interval", "")
    print_table(f"{reports[0]['target']} on {len(reports)} suites", columns, rows)
    print_warnings([f"{r['suite']}: {warning}" for r in reports for warning in r["warnings"]])
    print_decision(final)


def print_decision(final: Mapping[str, Any]) -> None:
    """Print whether a model is cleared for deployment, and why not."""
    score = f"overall {final['overall_score']:.3f}, {final['target_score']:g} is asked for"
    say(f"{'cleared for deployment' if final['cleared_for_deployment'] else 'NOT cleared for deployment'} ({score})")
    for reason in final["reasons"]:
        say(f"  {reason}")


def print_gates(final: Mapping[str, Any]) -> None:
    """Print the status of each suite, and the decision."""
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
    print_table(f"Gates{target}", ("suite", "gate", "passed", "verdict", "status"), rows)
    print_decision(final)


OUTCOMES = {
    "better": "BETTER: the candidate {} is better than the reference {}",
    "not_worse": "NOT WORSE: the candidate {} is not worse than the reference {}",
    "worse": "WORSE: the candidate {} is worse than the reference {}",
    "inconclusive": "INCONCLUSIVE: not settled if the candidate {} is as good as the reference {}",
}


def print_comparison(found: Mapping[str, Any]) -> None:
    """Print all targets side by side, the differences of candidate and reference, and the verdict."""
    targets = found["targets"]
    columns = ("", *(f"{target['role']}: {target['target']}" for target in targets))
    print_table("All targets on the same cases", columns, _side_by_side(targets))
    rows = [_difference(suite["suite"], suite, f"{suite['p_adjusted']:.3g}") for suite in found["suites"]]
    if rows:
        rows.append(_difference("pooled", found["pooled"], ""))
    rows += [_difference(f"anchor {anchor['anchor']}", anchor, "") for anchor in found["anchors"]]
    if rows:
        title = f"Candidate {found['candidate']} minus reference {found['reference']}, in points"
        print_table(title, ("", "cases", "won", "lost", "points", "95 % bounds", "p", "verdict"), rows)
    detectable = found["pooled"]["detectable"]
    if detectable is not None:
        say(f"smallest difference that these cases find: {100 * detectable:.1f} points")
    unstable = [f"{case['suite']}: {case['id']}" for case in found["unstable"]]
    if unstable:
        more = f" and {len(unstable) - SHOWN_FAILURES} more" if len(unstable) > SHOWN_FAILURES else ""
        say(f"left out, since the reference's own runs disagree: {', '.join(unstable[:SHOWN_FAILURES])}{more}")
    print_warnings(found["warnings"])
    say(OUTCOMES[found["verdict"]].format(found["candidate"], found["reference"]))
    for reason in found["reasons"]:
        say(f"  {reason}")


def _side_by_side(targets: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    cells: dict[str, dict[int, str]] = {}
    for column, target in enumerate(targets):
        found = [(suite["suite"], _rate(suite)) for suite in target["suites"]]
        for part in target["heldout_loss"]:
            loss = "not finite" if part["loss"] is None else f"{part['loss']:.4f}"
            found.append((f"held-out loss, {part['part']}", loss if part["comparable"] else f"{loss}, other tokens"))
        for label, text in [*found, *_performance(target["performance"])]:
            cells.setdefault(label, {})[column] = text
    return [(label, *(row.get(column, "–") for column in range(len(targets)))) for label, row in cells.items()]


def _rate(suite: Mapping[str, Any]) -> str:
    rate = f"{100 * suite['pass_rate']:.1f} % ({suite['passed']} of {suite['total_tests']})"
    measure = suite["measure"].replace("_", " ")
    return rate if measure == "pass rate" else f"{rate}, {measure} {suite['score']:.3f}"


def _difference(name: str, rates: Mapping[str, Any], p_value: str) -> tuple[str, ...]:
    counts = (str(rates["n"]), str(rates["wins"]), str(rates["losses"]))
    if rates["difference"] is None:
        return (name, *counts, "–", "–", p_value, rates["verdict"])
    difference, low, high = (f"{100 * rates[key]:+.1f}" for key in ("difference", "lower", "upper"))
    return (name, *counts, difference, f"{low} to {high}", p_value, rates["verdict"])


def print_documents(report: Mapping[str, Any], as_json: bool) -> None:
    """Print the documents that a suite's checks reject, and the reasons."""
    if as_json:
        print_json(report)
        return
    for result in report["results"]:
        if not result["passed"]:
            say(f"{result['file']}: {'; '.join(result['reasons'])}")
    profile = f", profile {report['profile']}" if report["profile"] else ""
    say(f"{report['suite']}{profile}: {report['passed']} of {report['files']} documents pass")


def print_suites(suites: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print the published suites."""
    if as_json:
        print_json({"suites": suites})
        return
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
    print_table("", ("suite", "gate", "threshold", "cases", ""), rows)


def _short(text: str, length: int = 60) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[:length] + "…"
