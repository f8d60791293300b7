"""The script for a CUDA machine: that it measures what is wanted, keeps what it has, and runs whole on a CPU."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_lora.bench.compare import Rounds
from mlx_lora.bench.report import Report, Step
from mlx_lora.errors import UserError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "h200.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    spec = importlib.util.spec_from_file_location("h200", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("mlx_lora.bench.compare.version", lambda name: "1.2.3")
    return module


def test_all_the_promise_is_there(script):
    wanted = script.cases(batch_size=16, tiny=False)
    assert len(wanted) == len(set(wanted)) == 10
    assert {case.shape for case in wanted} == {"llama-3.2-1b", "qwen2.5-7b"}
    assert {case.dtype for case in wanted} == {"bfloat16"}
    assert {(case.layers, case.hidden) for case in wanted} == {(None, None)}
    for before, case in itertools.pairwise(wanted):
        if case.packing:
            assert (before.data, before.shape, before.packing) == (case.data, case.shape, False)


class Answers:
    """Stands for the workers; the 7B shape fails, and a clock moves on with each answer."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def __call__(self, backend, spec):
        self.now += 20
        if spec.config["model_type"] == "qwen2":
            raise UserError("out of memory")
        return Report([Step(1.0, 1e12, 10, 100)] * 6, 1.0, 100, {"peak_tflops": 989.0, "device": "NVIDIA H200"})


def test_a_failure_or_the_end_of_time_loses_only_what_is_missing(script, monkeypatch, tmp_path, capsys):
    answers = Answers(monkeypatch)
    rounds = Rounds(2, 0, 4, answers)
    results = script.measure(script.cases(16, False), rounds, tmp_path, answers.now + 400)
    assert [result["data"] for result in results] == ["eisv", "eisv", "salience", "salience", "worst"]
    # A second round was begun, and none after that in which a comparison might not have ended.
    assert results[0]["rounds"] == 2
    assert answers.now <= 1400
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["results"] == results
    assert written["machine"]["device"] == "NVIDIA H200"
    assert capsys.readouterr().out.count("out of memory") == 5


@pytest.mark.slow
def test_the_script_runs_whole(tmp_path):
    pytest.importorskip("trl", reason="needs the extra bench")
    options = ("--tiny", "--batch-size", "2", "--minutes", "9", "--rounds", "1", "--out", tmp_path)
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "bench.json").read_text())["results"]) == 10
    assert (tmp_path / "bench.md").read_text().count("theirs packed") == 4
