"""A tiny comparison on MLX, both sides as they are measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlx_lora.bench.cases import Case
from mlx_lora.bench.compare import compare

pytest.importorskip("mlx_lm", reason="needs MLX")


@pytest.mark.slow
def test_both_sides_learn_the_same():
    told = []
    case = Case("eisv", "small-8k", 4, layers=2, hidden=32)
    (result,) = compare([case], rounds=1, steps=2, seed=0, advance=lambda: told.append(1))
    assert len(told) == 2
    assert result["shape"] == "small-8k, hidden 32, 2 layers"
    # Of 200 tokens 80 are computed once, and 28 meet the head.
    assert 0.2 < result["arithmetic_ratio"] < 0.7
    assert result["loss_ours"] == pytest.approx(result["loss_theirs"], abs=0.05)
    assert result["ours"]["peak_mb"] > 0
    assert result["step_time_ratio"] > 0
    first = result["first_losses"]
    assert first["ours"] == pytest.approx(first["theirs_without_padding"], rel=1e-5)
    assert first["theirs"] != pytest.approx(first["ours"], rel=1e-4)


@pytest.mark.slow
def test_the_command_writes_and_prints(command, tmp_path):
    own = ("--data", "worst", "--shape", "small-8k", "--layers", 1, "--hidden", 32, "--batch-size", 2)
    done = command("bench", "--backend", "mlx", *own, "--rounds", 1, "--steps", 2, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["arithmetic_ratio"] == 1.0
    assert json.loads((tmp_path / "bench.json").read_text())["results"] == [result]
    assert "| first loss ours | theirs | theirs without padding |" in (tmp_path / "bench.md").read_text()


@pytest.mark.slow
def test_the_rival_s_rows_sorted_by_length():
    plain = Case("unique", "small-8k", 4, layers=1, hidden=32)
    in_order, by_length = compare([plain, replace(plain, by_length=True)], rounds=1, steps=4, seed=0)
    assert by_length["shape"] == "small-8k, hidden 32, 1 layers, theirs by length"
    assert by_length["ours"] == in_order["ours"]
    # Less padding to compute, for the same examples.
    assert by_length["arithmetic_ratio"] > 1.05 * in_order["arithmetic_ratio"]
