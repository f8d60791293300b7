"""Checks that run a user's program or function."""

import json
import resource
import sys
import time

import pytest

WRITTEN = [sys.executable, "-c"]


def test_a_command_reads_the_case_and_the_answer(judge, tmp_path):
    script = tmp_path / "guard.py"
    script.write_text(
        "import json, os, sys\n"
        "case = json.load(sys.stdin)\n"
        "answer = open(sys.argv[1], encoding='utf-8').read()\n"
        "assert os.path.exists('guard.py') and sys.argv[1].endswith('.md')\n"
        "sys.exit(0 if answer == case['expect'] + '; touch x \\u00e9'\n"
        "         else f\"wanted {case['expect']} as {case['tags']}\")\n"
    )
    check = {"command": {"run": [sys.executable, "guard.py"], "suffix": ".md"}}
    assert judge(check, "yes; touch x é", folder=tmp_path, expect="yes", tags=["t"]).passed
    score = judge(check, "no", folder=tmp_path, expect="yes", tags=["t"])
    assert score.reason.endswith(": exit status 1: wanted yes as ['t']")
    assert [file.name for file in tmp_path.iterdir()] == ["guard.py"]
    script.write_text('#!/bin/sh\ngrep -q good "$1"\n')
    script.chmod(0o755)
    assert judge({"command": "./guard.py"}, "good", folder=tmp_path).passed
    assert judge({"command": "./guard.py"}, "bad", folder=tmp_path).reason == "guard.py: exit status 1"
    script.write_text("no program\n")
    assert "guard.py" in judge({"command": "./guard.py"}, "x", folder=tmp_path).reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(60)", "it took more than 0.5 seconds"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import os; os.system('sleep 60 &'); print('done \\x1b[31m'); os._exit(3)", r"exit status 3: done \u001b[31m"),
    ],
)
def test_a_command_that_hangs_or_dies(judge, code, reason):
    start = time.monotonic()
    score = judge({"command": {"run": [*WRITTEN, code], "time_limit": 0.5 if "sleep(60)" in code else 30}}, "x")
    assert score.reason.endswith(reason)
    assert time.monotonic() - start < 20


def test_a_command_prints_100_megabytes(judge):
    code = "import sys\nfor _ in range(100): sys.stdout.write('x' * 2**20)\nsys.exit('\\nthe end')"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    score = judge({"command": {"run": [*WRITTEN, code]}}, "x")
    assert score.reason.endswith("exit status 1: the end")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * (
        2**10 if sys.platform == "linux" else 2**20
    )


def test_a_case_that_a_command_does_not_read(judge):
    assert judge({"command": {"run": [*WRITTEN, "pass"]}}, "x", meta={"long": "y" * 2**20}).passed


def test_a_function(judge, tmp_path):
    (tmp_path / "checks.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Limits:\n    most: int = 3\n"
        "def short(case, answer):\n    return len(answer) <= Limits().most, f'{len(answer)} letters for {case.id}'\n"
        "def same(case, answer):\n    return answer == case.expect\n"
        "def scored(case, answer):\n    return {'passed': False, 'reason': 'low', 'metrics': {'share': 0.5}}\n"
        "def stumbles(case, answer):\n    return {}['x']\n"
        "def leaves(case, answer):\n    raise SystemExit(0)\n"
        "def silent(case, answer):\n    pass\n"
    )

    def reason(name, answer="abc", **case):
        return judge({"python": f"checks.py:{name}"}, answer, folder=tmp_path, **case).reason

    assert reason("short") == ""
    assert reason("short", "abcd") == "4 letters for c1"
    assert reason("same", expect="abc") == ""
    assert reason("same") == "checks.py:same returned False"
    assert judge({"python": "checks.py:scored"}, "x", folder=tmp_path).metrics == {"share": 0.5}
    assert reason("stumbles") == "checks.py:stumbles raised KeyError: 'x' is missing"
    assert reason("leaves") == "checks.py:leaves raised SystemExit: 0"
    assert reason("silent") == "checks.py:silent returned None, and it must return True or False"
    assert "checks" not in sys.modules
    assert str(tmp_path) not in sys.path
    assert json.dumps(judge({"python": "checks.py:scored"}, "x", folder=tmp_path).metrics)
