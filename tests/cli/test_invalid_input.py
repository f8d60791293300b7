"""Input that nobody writes on purpose: one sentence and status 2 all the same, and brackets are only brackets."""

from __future__ import annotations

import json
import os

import pytest

from mlx_lora.sources.eisv import make_eisv_dataset

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
STATE = {"t": 1, "E": 0.5, "I": 0.5, "S": 0.5, "V": 0.1}
LINES = {
    "deep": "[" * 100_000,
    "long number": f'{{"messages": {"1" * 5000}}}',
    "huge weight": json.dumps({"messages": MESSAGES, "weight": 10**400}),
    "huge span": json.dumps(
        {"messages": MESSAGES, "spans": [{"message": 1, "start": 0, "end": 1, "weight": 10**400}]},
    ),
    "huge state": json.dumps({"states": [STATE | {"E": 10**400}]}),
    "drift as text": json.dumps({"states": [STATE | {"ethical_drift": "x"}]}),
    "half a character": json.dumps({"messages": [{"role": "user", "content": "a\ud800"}, MESSAGES[1]]}),
}


@pytest.mark.parametrize("kind", LINES)
def test_odd_cases(refused, tmp_path, kind):
    (tmp_path / "c.jsonl").write_text(LINES[kind] + "\n")
    assert f"{tmp_path / 'c.jsonl'}, line 1" in refused("baseline", "--cases", tmp_path / "c.jsonl")


@pytest.mark.parametrize("value", ["[" * 100_000, '{"mean_coherence": ' + "1" * 5000 + "}"])
def test_odd_results(refused, tmp_path, value):
    (tmp_path / "r.json").write_text(value)
    assert str(tmp_path / "r.json") in refused("gate", tmp_path / "r.json")


@pytest.mark.parametrize("value", ["learning_rate=1" + "0" * 400, "seed=" + "1" * 5000, "seed=" + "[" * 3000])
def test_odd_settings(refused, value):
    assert value.split("=")[0] in refused("train", "--set", value)


@pytest.mark.parametrize("words", [("data", "check"), ("data", "show"), ("train", "--out", "a", "--data"), ("gate",)])
def test_names_that_no_file_can_have(refused, words):
    assert "name too long" in refused(*words, "x" * 300).lower()


def test_brackets_in_names_are_no_markup(command, tmp_path):
    out = tmp_path / "d [" / "x]"
    done = command("data", "eisv", "--out", out, "--min-per-shape", "3")
    assert done.returncode == 0, done.stderr
    assert "x]" in done.stdout
    assert command("baseline", "--cases", out / "test.jsonl").returncode == 0


def test_a_byte_order_mark_is_passed_over(command, tmp_path):
    make_eisv_dataset(tmp_path / "d", min_per_shape=3)
    cases = tmp_path / "d" / "test.jsonl"
    cases.write_bytes(b"\xef\xbb\xbf" + cases.read_bytes())
    assert command("baseline", "--cases", cases).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_device_is_said(command):
    with open("/dev/full", "w") as full:
        import subprocess
        import sys

        done = subprocess.run(
            [sys.executable, "-m", "mlx_lora", "data", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_experience_no_file_can_hold_is_refused(command, tmp_path):
    row = {"prompt": "a", "response": "We us? why? feel sense understand curious", "metadata": {"a": "\ud800"}}
    done = command("experience", "add", "--buffer", tmp_path / "b.json", "-", input=json.dumps(row))
    assert done.returncode == 2
    assert "half of a character" in done.stderr
    lines = [{"prompt": "a\u2028b", "response": f"We found it together {i}, specifically us?"} for i in (1, 2)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    done = command("experience", "add", "--buffer", tmp_path / "b.json", "--json", "-", input=text)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["results"]) == 2
