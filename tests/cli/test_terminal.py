"""The ends of a command: what data holds does not steer the terminal, and a reader that leaves fails nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lora.engines.reply import Reply

REPO = Path(__file__).parent.parent.parent
# Sets the terminal's title; click would take a colour out by itself, but not this.
TITLE = "\x1b]0;owned\x07"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def results(tmp_path, passed: bool, **changes) -> Path:
    counts = {"total_tests": 1, "passed": int(passed), "failed": int(not passed), "pass_rate": float(passed)}
    report = {"suite": "eisv_gate1", "test_name": "eisv_gate1", "target": "x", "gate": "ship", "gate_passed": passed}
    file = tmp_path / f"{passed}.json"
    file.write_text(json.dumps({**report, **counts, "results": [{"passed": passed}], **changes}))
    return file


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("streams", ["stdout", "both"])
def test_a_closed_pipe_does_not_change_the_verdict(tmp_path, passed, streams):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_lora", "gate", results(tmp_path, passed, warnings=["w" * 99])],
        stdout=write,
        stderr=write if streams == "both" else subprocess.PIPE,
    )
    os.close(write)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == (0 if passed else 1)
    assert streams == "both" or b"Traceback" not in errors
    assert streams == "both" or b"BrokenPipe" not in errors


def test_closed_pipes_of_other_commands(eisv_data):
    for words in (["--help"], ["data", "show", str(eisv_data)], ["baseline", "--cases", str(eisv_data / "test.jsonl")]):
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "mlx_lora", *words]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, b"")


def test_streams_that_are_closed(tmp_path):
    line = f"{sys.executable} -m mlx_lora gate {results(tmp_path, True)} >&- 2>&-"
    assert subprocess.run(line, shell=True, cwd=REPO).returncode == 0


def test_letters_that_the_terminal_does_not_have(command, tmp_path):
    file = results(tmp_path, True, target="Λ")
    done = command("gate", file, "--json", env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0
    assert '"\\u039b"' in done.stdout


def shown(done) -> str:
    assert "Traceback" not in done.stderr
    assert not CONTROL.search(done.stdout + done.stderr), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_escape_sequences_stay_where_they_are(command, tmp_path, eisv_data):
    said = "\\u001b]0;owned\\u0007"
    file = results(tmp_path, True, target=TITLE, warnings=[TITLE])
    assert shown(command("gate", file)).count(said) == 2
    assert json.loads(shown(command("gate", file, "--json")))["target"] == TITLE
    assert said in shown(command("gate", tmp_path / TITLE))
    shown(command("gate", "--" + TITLE))
    shown(command(TITLE))
    assert said in shown(command("train", "--set", f"lora_rank={TITLE}", "--out", tmp_path / "x"))
    assert said in shown(command("generate", "--target", tmp_path / TITLE, "--prompt", "a"))
    rows = [[{"role": "user", "content": TITLE}, {"role": "assistant", "content": TITLE + str(i)}] for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in [*rows, rows[0]]))
    assert said in shown(command("data", "show", tmp_path / "rows.jsonl"))
    shown(command("data", "check", tmp_path / "rows.jsonl"))
    shown(command("data", "instructions", tmp_path / "rows.jsonl", "--out", tmp_path / TITLE))


def test_an_answer_with_escape_sequences(monkeypatch, tmp_path):
    from click.testing import CliRunner

    from mlx_lora.cli.main import cli
    from mlx_lora.evaluation.targets import opening as targets

    monkeypatch.setattr(targets.ModelTarget, "answer", lambda *_: [Reply(TITLE + "\r\nyes\r")])
    words = ["generate", "--target", "builtin/tiny-lumen", "--prompt", "a"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.stdout_bytes == b"\\u001b]0;owned\\u0007\r\nyes\\u000d\n"


def test_every_command_prints_through_one_place():
    for file in (REPO / "mlx_lora").rglob("*.py"):
        if file.name != "output.py":
            assert not re.search(r"click\.s?echo\(|click\.secho\(", file.read_text()), file
