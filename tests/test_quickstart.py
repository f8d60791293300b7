"""The promise of the README: a few minutes, and the gate fails for the base and passes for the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from json_keys import key_paths

pytestmark = pytest.mark.slow
# Of a few thousand sampled answers one or two come out malformed; which run meets them depends on the machine's BLAS.
SAMPLED_VALID = 0.98
BASE_COHERENCE = 0.4
REAL_SAMPLED = 0.85


@pytest.fixture(scope="module")
def quickstart(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart") / "q"
    # Minutes on a calm machine; how many is for the benchmarks to say.
    done = command("quickstart", "--out", out, "--json", timeout=1500)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_gate_fails_for_the_base_and_passes_for_the_adapter(quickstart):
    _, summary = quickstart
    assert summary["base"]["gate_passed"] is False
    # The base knows the forms, not which tokens go with which trajectory: chance is 0.25.
    assert summary["base"]["balanced_coherence"] < BASE_COHERENCE
    for name in ("adapter", "adapter_sampled"):
        assert summary[name]["mean_coherence"] > 0.952
        assert summary[name]["gate_passed"] is True
    assert summary["adapter"]["valid_rate"] == 1.0
    # Without the shape's name, from the numbers: the mean over the shapes; a constant reaches 0.333.
    assert summary["adapter_hidden"]["balanced_coherence"] >= 0.80
    assert summary["adapter"]["balanced_coherence"] >= 0.90
    assert summary["adapter_sampled"]["valid_rate"] >= SAMPLED_VALID
    assert summary["adapter_sampled"]["tokens_in_use"] >= 10


def test_every_promised_key_stays(quickstart):
    pinned = json.loads((Path(__file__).parent / "compat" / "json_keys.json").read_text())["quickstart"]
    assert set(pinned) - key_paths(quickstart[1]) == set()


def test_no_warning_is_given(quickstart):
    events = [json.loads(line) for line in (quickstart[0] / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [e for e in events if e["event"] == "warning"] == []


@pytest.mark.parametrize("temperature", [0, 1])
def test_real_windows_pass_too(quickstart, command, realdata, tmp_path, temperature):
    cases = realdata / "eisv" / "lumen_windows_dev.jsonl"
    arguments = ("eval", "--suite", "eisv_gate1", "--cases", cases, "--temperature", temperature, "--json")
    reached = json.loads(
        command(*arguments, "--target", quickstart[0] / "run", "--out", tmp_path / "results.json").stdout
    )
    # Real windows hold 4 states where the training data holds 20: sampled, their numbers outvote the name at times.
    assert reached["mean_coherence"] > (REAL_SAMPLED if temperature else 0.952)
    assert reached["valid_rate"] >= (SAMPLED_VALID if temperature else 1.0)
    if temperature:
        assert reached["tokens_in_use"] >= 10
    if not temperature:
        assert command("gate", tmp_path / "results.json").returncode == 0


def test_the_base_fails_on_real_windows(command, realdata, tmp_path):
    cases = realdata / "eisv" / "lumen_windows_dev.jsonl"
    arguments = ("eval", "--suite", "eisv_gate1", "--cases", cases, "--target", "builtin/tiny-lumen")
    assert command(*arguments, "--out", tmp_path / "results.json").returncode == 0
    assert command("gate", tmp_path / "results.json").returncode == 1
