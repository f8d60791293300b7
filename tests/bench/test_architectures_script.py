"""The matrix over architectures: a row is measured in a process of its own, and counted as it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "architectures.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("architectures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**changes):
    good = {"trained": "2 of 2 layers, 4 modules", "difference": 1e-6, "plain": False, "share_prefix": True}
    return {**good, "narrow": False, **changes}


def test_what_does_not_train_counts_as_plain_and_hub_names_not_at_all(script):
    rows = {
        "a": row(),
        "b": row(plain=True, difference=1e-2),
        "c": row(share_prefix=False),
        "d": {"failed": "ValueError: a | b"},
        "a (HF names)": row(plain=True),
    }
    counts = script.summary(rows)
    assert counts == {"architectures": 4, "trained": 3, "losses equal": 2, "plain": 2, "shared prefix": 2}
    script.COLUMNS["fuse"] = lambda model, run: "verified"
    rows["a"]["fuse"] = "verified"
    record = {"machine": "m", "date": "2026-01-01", "mlx_lm": "1", "summary": counts}
    shown = script.markdown(rows, record).splitlines()
    cells = [line.count("|") for line in shown if line.startswith("|")]
    assert len(set(cells)) == 1
    assert "| a | 2 of 2 layers, 4 modules | chosen | shared | 1.0e-06 | verified |" in shown


@pytest.mark.slow
def test_a_row_is_measured(script, realdata):
    measured = script.in_a_process("qwen3", realdata / "architectures.json")
    assert measured["difference"] < script.EQUAL
    assert measured["trained"].endswith("layers, 4 modules")


def test_a_process_that_fails_is_a_row(script, tmp_path):
    configs = tmp_path / "configs.json"
    configs.write_text(json.dumps({"none": {"model_type": "no_such_model"}}))
    assert "failed" in script.in_a_process("none", configs)
