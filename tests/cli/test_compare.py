"""``compare`` as a user meets it: the verdict, the table of all targets, ``--json``, exit statuses, bad input."""

from __future__ import annotations

import json

import pytest

SUITE = """name: agrees
gate: ship
threshold: 0.9
cases: {file: agrees.jsonl}
checks:
  - contains: {texts: ['yes']}
"""


@pytest.fixture
def folder(tmp_path):
    """A suite of 80 questions, and files of answers: all right, all wrong, two of them wrong."""
    (tmp_path / "agrees.yaml").write_text(SUITE)
    rows = [json.dumps({"id": f"q{i}", "prompt": f"Question {i}?"}) + "\n" for i in range(80)]
    (tmp_path / "agrees.jsonl").write_text("".join(rows))
    for name, wrong in (("right", 0), ("slips", 2), ("wrong", 80)):
        answers = [{"id": f"q{i}", "answer": "no" if i < wrong else "yes"} for i in range(80)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return tmp_path


@pytest.fixture
def compared(command, folder):
    """Compare files of answers by name; returns the finished process."""

    def run(*names, options=()):
        targets = [f"answers:{name}.jsonl" for name in names]
        return command("compare", *targets, "--suites", "agrees.yaml", *options, cwd=folder)

    return run


def test_the_verdict_is_on_the_candidate(compared):
    done = compared("wrong", "right")
    assert done.returncode == 0, done.stderr
    assert "BETTER: the candidate answers:right.jsonl is better than the reference answers:wrong.jsonl" in done.stdout
    done = compared("right", "wrong")
    assert done.returncode == 1, done.stderr
    assert "WORSE: the candidate answers:wrong.jsonl is worse than the reference answers:right.jsonl" in done.stdout
    assert "the collapse stop ended the comparison after 7 answers" in done.stdout
    done = compared("right", "right")
    assert (done.returncode, "NOT WORSE: the candidate" in done.stdout) == (0, True)
    done = compared("right", "slips")
    assert done.returncode == 1
    assert "INCONCLUSIVE" in done.stdout
    assert "more cases would settle it" in done.stdout


def test_all_targets_side_by_side(compared):
    done = compared("wrong", "slips", "right", "right", options=("--anchor", "answers:right.jsonl"))
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "agrees" in line)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert [cell.split(" %")[0] for cell in cells] == ["agrees", "0.0", "97.5", "100.0", "100.0"]
    assert done.stdout.count("shown") == 2
    assert "anchor" in done.stdout


def test_json(compared, folder):
    done = compared("wrong", "right", options=("--json", "--out", "kept"))
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["verdict"] == "better"
    assert {"n", "difference", "lower", "upper", "detectable"} <= set(found["pooled"])
    assert (found["pooled"]["n"], found["pooled"]["difference"]) == (80, 1.0)
    assert (found["heldout_loss"], found["unstable"], found["suites"][0]["suite"]) == ({}, [], "agrees")
    assert (found["reference"], found["candidate"]) == ("answers:wrong.jsonl", "answers:right.jsonl")
    assert json.loads((folder / "kept" / "compare.json").read_text()) == {"format": 1, **found}
    reports = sorted(file.parent.name[:18] for file in folder.glob("kept/*/report_agrees.json"))
    assert reports == ["answers-right.json", "answers-wrong.json"]


def test_help_says_which_is_which(command):
    said = " ".join(command("compare", "--help").stdout.split())
    assert "compare [OPTIONS] [SHOWN]... REFERENCE CANDIDATE" in said
    assert "The verdict is on the candidate, the last target named; the one before it is the reference." in said
    assert "Exit status: 0 better or not worse, 1 worse or not settled, 2 could not run." in said


def test_bad_input(refused, folder):
    right = "answers:right.jsonl"
    for words, said in (
        ((right, right), "nothing to compare"),
        ((right, "--suites", "agrees.yaml"), "a comparison needs two targets: the reference, then the candidate"),
        ((right, "answers:absent.jsonl", "--suites", "agrees.yaml"), "no such file"),
        ((right, right, "--suites", "absent.yaml"), "there is no such suite file"),
        ((right, right, "--suites", "agrees.yaml", "--data", "absent"), "there is no such dataset"),
        ((right, right, "--suites", "agrees.yaml", "--out", "right.jsonl"), "is not a directory"),
    ):
        assert said in refused("compare", *words, cwd=folder)
