"""``eval``, ``eval check`` and ``gate`` as a user meets them: exit statuses, and one sentence for what is wrong."""

from __future__ import annotations

import json
import sys

import pytest
import yaml
from completions_server import completions_server

from mlx_lora.files import file_lock

ANSWERS = '{"id": "a", "answer": "yes"}\n{"id": "b", "answer": "no"}\n'
CASES = '{"id": "a", "prompt": "A", "expect": "yes"}\n{"id": "b", "prompt": "B", "expect": "yes"}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with a suite, its cases and answers to them; the commands run in it."""
    monkeypatch.chdir(tmp_path)

    def write(name="mine", rows=CASES, answers=ANSWERS, **keys):
        (tmp_path / f"{name}.jsonl").write_text(rows)
        (tmp_path / "answers.jsonl").write_text(answers)
        content = {"name": name, "threshold": 0.5, "cases": {"file": f"{name}.jsonl"}, "checks": [{"contains": {}}]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**content, **keys}))
        return tmp_path

    write()
    return write


def evaluate(*options, suite="mine.yaml", target="answers:answers.jsonl"):
    return ("eval", "--suite", suite, "--target", target, *options)


def test_one_suite_that_is_measured_is_status_0(folder, command):
    done = command(*evaluate("--out", "out", "--json"))
    report = json.loads(done.stdout)
    assert (done.returncode, report["gate_passed"], report["passed"], "results" in report) == (0, True, 1, False)
    folder(threshold=0.9)
    done = command(*evaluate("--out", "out"))
    assert done.returncode == 0
    assert "FAILED" in done.stdout
    assert "b: the answer does not contain 'yes'" in done.stdout
    assert command("gate", "out").returncode == 1


def test_several_suites_are_cleared_or_not(folder, command, tmp_path):
    cases = CASES.replace('"yes"}', '"e"}')
    folder("other", answers=ANSWERS.replace('"no"', '"yes"'), gate="ship")
    done = command(*evaluate("--out", "out", "--json", suite="mine.yaml,other.yaml"))
    final = json.loads(done.stdout)
    assert (done.returncode, final["cleared_for_deployment"], final["overall_score"]) == (0, True, 1.0)
    assert [report["suite"] for report in final["suites"]] == ["mine", "other"]
    written = json.loads((tmp_path / "out" / "eval_report_final.json").read_text())
    assert {"overall_score", "target_score", "ship_gates_passed", "cleared_for_deployment", "test_results"} <= set(
        written
    )
    folder("other", rows=cases, answers=ANSWERS, threshold=0.9)
    done = command(*evaluate("--out", "out", suite="mine.yaml,other.yaml"))
    assert done.returncode == 1
    assert "NOT cleared for deployment" in done.stdout


def test_a_target_that_answers_nothing_could_not_run(folder, command):
    folder(answers='{"id": "c", "answer": "yes"}\n')
    done = command(*evaluate("--out", "out"))
    assert done.returncode == 2
    said = "no case was answered: answers:answers.jsonl has no answer to this case"
    assert done.stderr.strip().splitlines()[-1] == f"mlx-lora: answers:answers.jsonl: {said}"
    assert json.loads(command("gate", "out", "--json").stdout)["gate_passed"] is False


def test_one_suite_of_several_that_is_not_answered_is_not_cleared(folder, command):
    folder("other", rows=CASES.replace('"a"', '"c"').replace('"b"', '"d"'), gate="ship")
    done = command(*evaluate("--json", suite="mine.yaml,other.yaml"))
    final = json.loads(done.stdout)
    assert (done.returncode, [report["not_answered"] for report in final["suites"]]) == (1, [0, 2])
    assert final["reasons"][0] == "other: pass rate 0.000 is not ≥ 0.5"


def test_what_is_not_answered_is_not_passed(folder, command):
    folder(answers='{"id": "a", "answer": "yes"}\n')
    done = command(*evaluate("--json"))
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"], report["not_answered"]) == (0, 1, 1)
    assert "1 of 2 cases were not answered, and count as failed; see their reasons" in report["warnings"]
    assert "warning: 1 of 2 cases were not answered" in command(*evaluate()).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (evaluate(suite="pdca_shema"), "there is no such suite; the nearest is 'pdca_schema'"),
        (evaluate(suite="absent.yaml"), "absent.yaml: there is no such suite file"),
        (evaluate(suite="mine.yaml,"), "there is no such suite"),
        (evaluate(target="answers:absent.jsonl"), "there is no such file"),
        (evaluate(target="http://127.0.0.1:9/v1#m"), "http://127.0.0.1:9/v1: no server answers there"),
        (evaluate(target="http://127.0.0.1:9/v1"), "with the model after the #"),
        (evaluate("--hide-shape"), "mine: --hide-shape is for suites of trajectories"),
        (evaluate("--cases", "absent.jsonl"), "absent.jsonl: there is no such file"),
        (evaluate("--out", "mine.yaml/x"), "mine.yaml"),
        (evaluate("--out", "r.json", suite="mine.yaml,refusal"), "2 suites have a report each; give a directory"),
        (evaluate("--cases", "mine.jsonl", suite="mine.yaml,refusal"), "each of these suites has cases of its own"),
        (evaluate(suite="eisv_gate1"), "eisv_gate1: this suite has no cases of its own; give them with --cases"),
        (("eval", "check", "absent.md", "--suite", "mine.yaml"), "absent.md: this document cannot be read"),
        (("eval", "check", "mine.jsonl", "--suite", "mine.yaml"), "case 'mine.jsonl' has no text in expect"),
        (("eval", "check", "mine.jsonl", "--suite", "coder"), "coder: this is a group, and one suite is needed"),
        (("eval", "check", "mine.jsonl", "--suite", "pdca_schema", "--profile", "loose"), "'loose'"),
        (("gate", "absent.json"), "absent.json: this report cannot be read"),
        (("gate", "mine.yaml"), "mine.yaml: this report cannot be read"),
        (("gate", "."), "there is no report_*.json in this directory"),
    ],
)
def test_one_sentence_and_status_2(folder, refused, tmp_path, arguments, said):
    before = sorted(file.name for file in tmp_path.iterdir())
    assert said in refused(*arguments)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"checks": [{"contain": {}}]}, "mine.yaml, line 4: there is no check 'contain'; the nearest is 'contains'"),
        ({"chekcs": []}, "mine.yaml, line 5: chekcs: there is no such key; the nearest is 'checks'"),
        ({"threshold": "high"}, "mine.yaml, line 6: threshold: 'high' is not a number"),
        ({"cases": {"file": "absent.jsonl"}}, "mine.yaml, line 2: cases.file: absent.jsonl: there is no such file"),
        ({"checks": [{"command": "no-such-program-here"}]}, "no-such-program-here: there is no such program"),
        ({"rows": CASES.replace('"id": "a", ', "")}, "mine.jsonl, line 1: the case has no id"),
        ({"rows": CASES.replace('"b"', '"a"')}, "mine.jsonl, line 2: the id 'a' is that of mine.jsonl, line 1 too"),
        ({"rows": ""}, "mine.jsonl: the file holds no case; give one JSON object a line"),
    ],
)
def test_a_suite_that_is_wrong(folder, refused, keys, said):
    folder(**keys)
    assert said in refused(*evaluate())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(60)", "it took more than 1 seconds"),
        ("print('x' * 10**8); print('the end'); raise SystemExit(1)", "the end"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_a_guard_that_misbehaves_fails_its_cases(folder, command, tmp_path, program, reason):
    (tmp_path / "guard.py").write_text(program)
    folder(checks=[{"command": {"run": [sys.executable, "guard.py"], "time_limit": 1}}])
    done = command(*evaluate("--out", "out"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report_mine.json").read_text())
    assert (report["passed"], report["best_constant"]) == (0, None)
    assert all(reason in result["reason"] for result in report["results"]), report["results"]
    assert max(len(result["reason"]) for result in report["results"]) < 400


@pytest.mark.parametrize(
    ("fault", "said"),
    [("hang", "did not finish within 1 seconds"), ("html", "not an OpenAI-compatible server"), ("500", "status 500")],
)
@pytest.mark.slow
def test_a_server_that_fails(folder, command, fault, said):
    with completions_server() as server:
        server.faults["B"] = fault
        done = command(*evaluate("--timeout", 1, "--json", target=f"{server.url}/v1#tiny"))
        report = json.loads(done.stdout)
        assert (done.returncode, report["not_answered"], report["total_tests"]) == (0, 1, 2)
        server.faults["A"] = fault
        done = command(*evaluate("--timeout", 1, target=f"{server.url}/v1#tiny"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def reports(folder, command):
    """The reports of two suites in the directory ``out``."""
    folder("other", answers=ANSWERS.replace('"no"', '"yes"'), gate="ship")
    assert command(*evaluate("--out", "out", suite="mine.yaml,other.yaml")).returncode == 0
    both = "mine.yaml,other.yaml"

    def judge(*options, suites=both):
        done = command("gate", "out", *(("--suites", suites) if suites else ()), "--json", *options)
        assert done.stderr == "" or done.returncode == 2, done.stderr
        return done.returncode, json.loads(done.stdout or "null"), done.stderr

    return judge


def statuses(final):
    return {result["test_name"]: result["status"] for result in final["test_results"]}


def test_reports_that_are_complete_are_cleared(reports, tmp_path):
    status, final, _ = reports()
    assert (status, statuses(final)) == (0, {"mine": "PASSED", "other": "PASSED"})
    assert reports(suites=None)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.unlink(), "there is no report; run the evaluation of this suite"),
        (lambda file: file.write_text(""), "this report cannot be read"),
        (lambda file: file.write_text(file.read_text()[:400]), "this report cannot be read"),
        (lambda file: file.write_text('{"test_name": "other"}'), "the report lacks total_tests"),
        (lambda file: change(file, results=[]), "the report is incomplete: 0 results of 2 cases"),
        (lambda file: change(file, passed=1, failed=1), "2 results have passed, and the report says 1"),
        (lambda file: change(file, total_tests=0, passed=0, failed=0, results=[]), "the report has no case"),
        (lambda file: change(file, suite_sha256="0"), "the suite's checks or thresholds have changed"),
    ],
)
def test_a_report_that_is_missing_or_incomplete_is_blocked(reports, tmp_path, spoil, said):
    spoil(tmp_path / "out" / "report_other.json")
    status, final, _ = reports()
    assert (status, statuses(final)) == (1, {"mine": "PASSED", "other": "BLOCKED"})
    assert not final["cleared_for_deployment"]
    assert any(said in reason for reason in final["reasons"]), final["reasons"]


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_every_suite_of_a_group_needs_a_report(reports, command, tmp_path):
    status, final, _ = reports(suites="coder")
    assert status == 1
    found = statuses(final)
    assert (len(found), set(found.values())) == (8, {"BLOCKED"})
    assert any("mine: this report is of another suite" in reason for reason in final["reasons"])
    (tmp_path / "empty").mkdir()
    done = command("gate", "empty", "--suites", "coder")
    assert (done.returncode, done.stdout.count("BLOCKED")) == (1, 6)


def test_reports_of_two_targets_are_not_judged_together(reports, tmp_path):
    change(tmp_path / "out" / "report_other.json", target="another")
    status, _, said = reports()
    assert (status, "these reports are of several targets (answers:answers.jsonl, another)" in said) == (2, True)


def test_reports_of_a_target_that_changed_are_not_judged_together(reports, tmp_path):
    change(tmp_path / "out" / "report_other.json", target_identity="another")
    status, _, said = reports()
    assert (status, "answers:answers.jsonl has changed between these reports" in said) == (2, True)


def test_two_evaluations_do_not_write_into_one_directory(folder, refused, tmp_path):
    (tmp_path / "out").mkdir()
    with file_lock(tmp_path / "out" / ".lock", "held"):
        assert "out: another evaluation is writing there" in refused(*evaluate("--out", "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_suite_that_got_stricter_needs_a_new_report(reports, folder):
    folder("other", answers=ANSWERS.replace('"no"', '"yes"'), gate="ship", threshold=1.0)
    status, final, _ = reports()
    assert (status, statuses(final)["other"]) == (1, "BLOCKED")


def test_a_waiver_is_by_name_with_a_reason(folder, reports, command):
    folder(answers=ANSWERS, threshold=0.9)
    command(*evaluate("--out", "out", suite="mine.yaml,other.yaml"))
    assert reports()[0] == 1
    status, final, _ = reports("--waive", "mine=known since May")
    assert (status, final["waivers"]) == (1, {"mine": "known since May"})
    assert statuses(final) == {"mine": "WAIVED", "other": "PASSED"}
    for waiver, said in (("other=x", "is a ship suite"), ("mine=", "has no reason"), ("none=x", "names no suite")):
        status, _, sentence = reports("--waive", waiver)
        assert (status, said in sentence) == (2, True), sentence
    assert "it must be SUITE=REASON" in reports("--waive", "mine")[2]


PDCA = {"seed": (0, 0), "template_v3": (36, 35), "relaxed": (38, 37)}


@pytest.mark.parametrize("profile", PDCA)
def test_real_documents(command, realdata, profile):
    files = sorted((realdata / "pdca").glob("*.md"))
    for suite, passed in zip(("pdca_schema", "pdca_template"), PDCA[profile], strict=True):
        done = command("eval", "check", *files, "--suite", suite, "--profile", profile, "--json")
        report = json.loads(done.stdout)
        assert (report["suite"], report["profile"]) == (suite, profile)
        assert (report["files"], report["passed"]) == (40, passed)
        assert done.returncode == 1
        assert [result["file"] for result in report["results"]] == list(map(str, files))
        for result in report["results"]:
            assert set(result) == {"file", "passed", "reasons"}
            assert bool(result["reasons"]) is not result["passed"]


def test_real_classes(command, realdata):
    pytest.importorskip("tree_sitter_typescript", reason="needs the extra code")
    files = sorted((realdata / "typescript").glob("*.ts"))
    report = json.loads(command("eval", "check", *files, "--suite", "empty_constructor", "--json").stdout)
    assert (report["profile"], report["files"], report["passed"]) == (None, 30, 4)
    passed = [result["file"].partition("__")[2] for result in report["results"] if result["passed"]]
    names = ["DefaultWeb4TestCase.ts", "DefaultWeb4Requirement.ts", "RequirementOverview.ts", "PeerManager.ts"]
    assert sorted(passed) == sorted(names)
    good = [file for file in files if file.name.partition("__")[2] in names]
    done = command("eval", "check", *good, "--suite", "empty_constructor")
    assert (done.returncode, done.stdout.strip()) == (0, "empty_constructor: 4 of 4 documents pass")
