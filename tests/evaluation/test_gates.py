import json

import pytest
from fuzz.mutations import VALUES, places
from suite_reports import result, suite_report

from mlx_lora.errors import UserError
from mlx_lora.evaluation.gates import judge_reports
from mlx_lora.evaluation.reports import judge_files
from mlx_lora.evaluation.views.report_tables import decision, gates_table


def report(name="pdca", passed=98, total=100, gate="ship", threshold=0.95, **changes):
    return {
        "test_name": name, "timestamp": "2026-01-01T00:00:00+00:00", "total_tests": total, "passed": passed,
        "failed": total - passed, "pass_rate": passed / total if total else 0.0, "threshold": threshold, "gate": gate,
        "gate_passed": total > 0 and passed / total >= threshold, "verdict": "INCONCLUSIVE",
        "results": [{"id": str(i), "passed": i < passed} for i in range(total)], **changes,
    }  # fmt: skip


def statuses(found):
    return {result["test_name"]: result["status"] for result in found["test_results"]}


def test_cleared():
    found = judge_reports([report(), report("tron", 92, gate="quality", threshold=0.9)])
    assert (found["cleared_for_deployment"], found["ship_gates_passed"], found["target_score"]) == (True, True, 0.9)
    assert found["overall_score"] == pytest.approx(0.95)
    assert judge_reports([report(passed=90, threshold=0.9)] * 1)["cleared_for_deployment"]


def test_a_ship_suite_that_fails_and_a_low_mean():
    found = judge_reports([report(passed=90)])
    assert (found["ship_gates_passed"], found["cleared_for_deployment"]) == (False, False)
    low = judge_reports([report(), report("tools", 80, gate="quality", threshold=0.8)])
    assert low["ship_gates_passed"]
    assert low["reasons"] == ["the overall score 0.890 is below 0.9"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (report(total=0, passed=0, results=[]), "no case"),
        (report(results=report()["results"][:40]), "40 results of 100"),
        (report(passed=98, results=report(passed=97)["results"]), "97 results have passed"),
        (report(failed=1), "together"),
        (report(pass_rate=0.5), "is not 98 of 100"),
        (report(passed=50, gate_passed=True), "is below 0.95"),
        (report(results=[{}] * 100), "does not say"),
        ({"test_name": "pdca"}, "lacks total_tests"),
        ([1], "JSON object"),
        (report("other"), "another suite"),
    ],
)
def test_blocked(broken, said):
    found = judge_reports([broken], {"pdca": "ship"})
    assert not found["cleared_for_deployment"]
    assert not found["ship_gates_passed"]
    assert "PASSED" not in statuses(found).values()
    assert any(said in reason for reason in found["reasons"])


def test_missing_and_double_reports_block():
    found = judge_reports([report()], {"pdca": "ship", "tron": "quality"})
    assert statuses(found) == {"pdca": "PASSED", "tron": "BLOCKED"}
    assert found["overall_score"] == pytest.approx(0.49)
    assert set(statuses(judge_reports([report(), report()])).values()) == {"BLOCKED"}


def test_waivers():
    reports = [report(passed=99), report("tron", 85, gate="quality", threshold=0.9)]
    assert not judge_reports(reports)["cleared_for_deployment"]
    found = judge_reports(reports, waivers={"tron": "format changes next week"})
    assert found["cleared_for_deployment"]
    assert found["test_results"][1]["waiver"] == "format changes next week"
    empty = [report(passed=99), report("tron", total=0, passed=0, gate="quality")]
    assert statuses(judge_reports(empty, waivers={"tron": "x"}))["tron"] == "BLOCKED"
    for waivers, said in (({"pdca": "x"}, "ship suite"), ({"tron": " "}, "no reason"), ({"trno": "x"}, "no suite")):
        with pytest.raises(UserError, match=said):
            judge_reports(reports, waivers=waivers)
    with pytest.raises(UserError, match="no report to judge"):
        judge_reports([])


def test_inconclusive_may_block():
    assert judge_reports([report(cases_needed=12)])["cleared_for_deployment"]
    found = judge_reports([report(cases_needed=12)], on_inconclusive="block")
    assert found["reasons"] == ["pdca: the verdict is INCONCLUSIVE, 12 more cases would settle it"]
    assert judge_reports([report(verdict="PASS")], on_inconclusive="block")["cleared_for_deployment"]


def test_any_value_anywhere_is_judged_or_refused_in_a_sentence(tmp_path):
    """Each field of a report, and each of a result, takes every value that the fuzzer puts in."""
    good = suite_report("pdca", [result("a", True, "x"), result("b", False, "y")])
    file, passed, sentences = tmp_path / "report.json", [], []
    for path in places(good):
        for value in VALUES:
            changed = json.loads(json.dumps(good))
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if path:
                holder[path[-1]] = value
            file.write_text(json.dumps(changed if path else value))
            try:
                final = judge_files([file])
            except UserError as refused:
                sentences.append(str(refused))
                continue
            assert all(type(cell) is str for row in gates_table(final)[2] for cell in row)
            assert decision(final)
            json.dumps(final, allow_nan=False)
            passed += [(path, value)] if final["gate_passed"] else []
    assert sentences
    assert not any("\n" in sentence for sentence in sentences)
    # One of two cases passes, below the threshold: only a threshold that is lower, or none, lets it through.
    assert {path for path, _ in passed} <= {("threshold",), ("measure",), ("gate_passed",)}, passed
