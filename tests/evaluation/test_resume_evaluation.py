"""kill -9 in the middle of an evaluation: the next run asks only what is missing, and the report is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from completions_server import completions_server

from mlx_lora.errors import UserError
from mlx_lora.evaluation.answers import ask
from mlx_lora.evaluation.cases import Case
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import open_target

pytestmark = pytest.mark.slow

CASES = [{"id": f"c{n}", "prompt": f"question {n}", "expect": "said", "tags": [f"t{n % 2}"]} for n in range(30)]
LIMIT = 120.0


def evaluate(suite, target, out, *options):
    return [sys.executable, "-m", "mlx_lora", "eval", "--suite", suite, "--target", target, "--out", out, *options]


def rows_of(file):
    """Complete lines of an answers file, without the first."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_bytes().rpartition(b"\n")[0].split(b"\n")[1:]]


def kill_after(count, file, command):
    """Run a command and kill it as soon as the file has so many answers; returns the saved ones."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(list(map(str, command)), env=key("killed"), **pipes) as process:
        until = time.monotonic() + LIMIT
        while len(rows_of(file)) < count and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    return rows_of(file)


def report_of(out, drop=("timestamp", "performance")):
    report = json.loads((out / "report_mine.json").read_text())
    return {key: value for key, value in report.items() if key not in drop}


def key(name):
    """Environment in which requests have a key: those of a process that is dead may still arrive."""
    return {**os.environ, "OPENAI_API_KEY": name}


def asked(state, name=""):
    return Counter(text for bearer, text in state.asked if bearer == name)


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_evaluation_of_a_server(write_suite, command, tmp_path, torn):
    suite, out, gate = write_suite(*CASES), tmp_path / "out", threading.Event()
    with completions_server() as state:
        target = f"{state.url}/v1#tiny"
        free = iter(range(12))

        def held(messages):
            # Twelve answers, then none until the process is dead.
            if next(free, None) is None:
                gate.wait(LIMIT)
            return f"You said {messages[-1]['content']}"

        state.answers = held
        saved = kill_after(12, out / "answers_mine.jsonl", evaluate(suite, target, out))
        gate.set()
        assert len(saved) == 12
        assert not (out / "report_mine.json").exists()
        # At most as many were lost as run at a time.
        assert len(state.asked) <= 12 + 4
        if torn:
            with open(out / "answers_mine.jsonl", "ab") as file:
                file.write(b'{"id": "c29", "text": "ha')
        done = command("eval", "--suite", suite, "--target", target, "--out", out, env=key("second"))
        assert done.returncode == 0, done.stderr
        missing = {case["prompt"] for case in CASES if case["id"] not in {row["id"] for row in saved}}
        assert asked(state, "second") == Counter(missing)
        whole = ("eval", "--suite", suite, "--target", target, "--out", tmp_path / "whole")
        assert command(*whole, env=key("whole")).returncode == 0
        assert asked(state, "whole") == Counter(case["prompt"] for case in CASES)
        assert report_of(out) == report_of(tmp_path / "whole")
        samples = [(place / "samples_mine.jsonl").read_text() for place in (out, tmp_path / "whole")]
        assert samples[0] == samples[1]
        assert Counter(row["id"] for row in rows_of(out / "answers_mine.jsonl")) == Counter(c["id"] for c in CASES)
        # Complete: nothing is asked again, and the report is the same.
        assert command("eval", "--suite", suite, "--target", target, "--out", out, env=key("third")).returncode == 0
        assert (asked(state, "third"), report_of(out)) == ({}, report_of(tmp_path / "whole"))


def test_a_killed_evaluation_of_a_base(write_suite, command, tmp_path):
    """Groups of 32 at temperature 4: each has its own seed, and one that is missing is answered as a whole."""
    cases = [{"id": str(n), "prompt": f"Describe the shape {n}", "expect": "EISV"} for n in range(80)]
    suite = write_suite(*cases, generate={"max_tokens": 24, "temperature": 4.0, "seed": 3})
    target, out, whole = "builtin/tiny-lumen", tmp_path / "out", tmp_path / "whole"
    saved = kill_after(32, out / "answers_mine.jsonl", evaluate(suite, target, out))
    assert len(saved) in (32, 64)
    assert command("eval", "--suite", suite, "--target", target, "--out", out).returncode == 0
    assert [row["id"] for row in rows_of(out / "answers_mine.jsonl")] == [case["id"] for case in cases]
    assert command("eval", "--suite", suite, "--target", target, "--out", whole).returncode == 0
    assert report_of(out) == report_of(whole)
    assert report_of(out)["distinct_answers"] > 10


def test_a_kill_at_any_write_leaves_what_can_be_read(write_suite, command, tmp_path):
    from pathlib import Path

    killed = Path(__file__).parents[1] / "training" / "killed.py"
    suite = write_suite(*CASES[:3])
    with completions_server() as state:
        target, whole = f"{state.url}/v1#tiny", tmp_path / "whole"
        assert command("eval", "--suite", suite, "--target", target, "--out", whole).returncode == 0
        for where in ("answers_mine", "samples_mine", "report_mine", "eval_report_final"):
            out = tmp_path / where
            arguments = ["eval", "--suite", suite, "--target", target, "--out", out]
            program = [sys.executable, str(killed), where, str(out), *map(str, arguments)]
            assert subprocess.run(program, capture_output=True).returncode == -signal.SIGKILL
            done = command(*arguments)
            assert done.returncode == 0, done.stderr
            assert report_of(out) == report_of(whole)
            assert not [name for name in os.listdir(out) if name.endswith(".tmp")]


def many(cases, count=3):
    return [Case(f"c{n}", [{"role": "user", "content": f"{cases} {n}"}]) for n in range(count)]


@pytest.fixture
def server():
    with completions_server() as state:
        yield state


def test_other_cases_settings_or_targets_ask_anew(server, tmp_path):
    file, target = tmp_path / "a.jsonl", open_target(f"{server.url}/v1#tiny")

    def requests(target, cases, generation):
        server.requests.clear()
        ask(target, cases, generation, file)
        return len(server.requests)

    first, settings = many("why"), Generation(8)
    assert [requests(target, first, settings) for _ in range(2)] == [3, 0]
    system = [Case(case.id, [{"role": "system", "content": "Be kind."}, *case.messages]) for case in first]
    for cases in (many("how"), system, many("how", 4)):
        assert [requests(target, cases, settings) for _ in range(2)] == [len(cases), 0]
    for changed in (Generation(9), Generation(8, 0.5), Generation(8, 0.0, 1)):
        assert [requests(target, first, changed) for _ in range(2)] == [3, 0]
    other = open_target(f"{server.url}/v1#other")
    assert [requests(other, first, settings) for _ in range(2)] == [3, 0]
    # Another order is another evaluation, since seeds are those of the places.
    assert requests(other, first[::-1], settings) == 3


def test_a_case_that_failed_is_asked_again_and_no_other(server, tmp_path):
    file, target = tmp_path / "a.jsonl", open_target(f"{server.url}/v1#tiny")
    server.faults["why 1"] = "html"
    replies = ask(target, many("why"), Generation(8), file)
    assert [reply.text is None for reply in replies] == [False, True, False]
    server.faults.clear()
    server.asked.clear()
    replies = ask(target, many("why"), Generation(8), file)
    assert asked(server) == Counter(["why 1"])
    assert [reply.text for reply in replies] == [f"You said why {n}" for n in range(3)]
    assert all(reply.error is None for reply in replies)


def test_a_stop_ends_the_asking(server, tmp_path):
    target = open_target(f"{server.url}/v1#tiny")
    seen = []
    replies = ask(target, many("why", 40), Generation(8), stop=lambda found: seen.append(len(found)) or len(found) >= 3)
    assert seen == sorted(seen)
    assert 3 <= sum(reply.text is not None for reply in replies) < 40
    assert len(server.requests) < 40
    assert replies[-1].error == "not asked: the evaluation was stopped before"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": "c0", "answer": "mine"}\n', "this is not a file of answers that eval saved; move it"),
        (b"my notes\n", "this is not a file of answers"),
        (b"", "this is not a file of answers"),
        (b"\xff\n", "this is not a file of answers"),
        (b'{"format": 2, "target": "t", "cases_sha256": "s"}\n', "has format 2"),
    ],
)
def test_a_file_that_is_not_ours_is_not_replaced(server, tmp_path, content, said):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        ask(open_target(f"{server.url}/v1#tiny"), many("why"), Generation(8), file)
    assert (file.read_bytes(), server.requests) == (content, [])


def test_half_a_character_is_saved_as_it_is_judged(server, tmp_path):
    """A server's JSON may hold an unpaired surrogate, which is no text and fits no file."""
    server.answers = lambda messages: "broken \ud83d end"
    target, file = open_target(f"{server.url}/v1#tiny"), tmp_path / "a.jsonl"
    first = ask(target, many("why", 1), Generation(8), file)
    assert [reply.text for reply in first] == ["broken � end"]
    assert [reply.text for reply in ask(target, many("why", 1), Generation(8), file)] == ["broken � end"]
