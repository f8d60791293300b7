"""``eval`` and ``gate`` as a user meets them: the warning where cases cannot tell a model from a constant."""

from __future__ import annotations

import json

import pytest

WINDOW = {
    "shape": "convergence",
    "n_states": 4,
    "duration_s": 6.9,
    "mean": {"E": 0.6, "I": 0.8, "S": 0.1, "V": 0.02},
    "derivative": {"dE": 0.0, "dI": 0.0, "dS": 0.0, "dV": 0.0},
    "second_derivative": {"d2E": 0.0, "d2I": 0.0, "d2S": 0.0, "d2V": 0.0},
}
SAID = "these cases cannot tell a model from a constant: ~resonance~ alone scores 1.000, above the threshold 0.933"


@pytest.fixture
def results(command, tmp_path):
    """Evaluate the built-in base on windows of these shapes; returns (result of the command, results file)."""

    def run(*shapes, options=()):
        cases, out = tmp_path / "cases.jsonl", tmp_path / "results.json"
        cases.write_text("".join(json.dumps({**WINDOW, "shape": shape}) + "\n" for shape in shapes))
        target = ("--suite", "eisv_gate1", "--target", "builtin/tiny-lumen", "--cases", cases, "--out", out)
        return command("eval", *target, *options), out

    return run


def test_a_constant_passes(results, command):
    done, out = results("convergence", "settled_presence")
    assert done.returncode == 0, done.stderr
    assert f"warning: {SAID}" in done.stderr
    assert "best constant answer" in done.stdout
    for as_json in (False, True):
        gate = command("gate", out, *(["--json"] if as_json else []))
        assert gate.returncode == 1
        assert SAID in (json.loads(gate.stdout)["warnings"][0] if as_json else gate.stderr)


def test_cases_that_tell(results, command):
    done, out = results("convergence", "void_rising", options=("--json", "--hide-shape"))
    report = json.loads(done.stdout)
    assert report["best_constant"]["score"] == 0.5
    assert (report["warnings"], report["hide_shape"]) == ([], True)
    assert {"balanced_coherence", "distinct_answers", "mean_coherence", "gate_passed"} <= set(report)
    assert "shape:" not in json.loads(out.read_text())["results"][0]["prompt"]
    assert "warning" not in command("gate", out).stderr


def test_a_place_that_cannot_be_written_is_refused_before_the_work(refused, tmp_path):
    cases = ("eval", "--suite", "eisv_gate1", "--target", tmp_path / "absent", "--cases", tmp_path / "absent.jsonl")
    assert f"{tmp_path / 'no' / 'r.json'}: it cannot be written" in refused(*cases, "--out", tmp_path / "no" / "r.json")
    (tmp_path / "folder.json").mkdir()
    assert "folder.json: this is there already and is not a file" in refused(*cases, "--out", tmp_path / "folder.json")
    (tmp_path / "folder.json").rmdir()
    assert "absent.jsonl: there is no such file" in refused(*cases, "--out", tmp_path)
    (tmp_path / "r.json").write_text("{}")
    assert "absent" in refused(*cases, "--out", tmp_path / "r.json")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("r.json", "{}")]


def test_a_prompt_that_fills_the_context_is_refused_by_its_length(refused):
    said = refused("generate", "--target", "builtin/tiny-lumen", "--prompt", "word " * 3000)
    assert "the prompt has " in said
    assert "a context of 2,048" in said
