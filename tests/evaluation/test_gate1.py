import json

import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation.eisv_cases import read_eisv_cases as read_cases
from mlx_lora.evaluation.eisv_cases import with_shape
from mlx_lora.evaluation.eisv_scoring import run_baselines
from mlx_lora.evaluation.reports import judge_files, read_report
from mlx_lora.evaluation.runner import prepare, run_suite
from mlx_lora.evaluation.suite import load_suite
from mlx_lora.evaluation.targets.opening import ModelTarget
from mlx_lora.models.inspection import BaseFacts
from mlx_lora.sources.eisv import SYSTEM_PROMPT, TrajectoryShape, generate_trajectory

WINDOW = {
    "id": "w1",
    "shape": "convergence",
    "n_states": 4,
    "duration_s": 6.86,
    "mean": {"E": 0.6362, "I": 0.866, "S": 0.1137, "V": 0.0261},
    "derivative": {"dE": -0.0007, "dI": 0.0016, "dS": -0.0004, "dV": -0.0001},
    "second_derivative": {"d2E": -0.003, "d2I": -0.0067, "d2S": -0.0012, "d2V": -0.0003},
}


def cases_of(tmp_path, *rows):
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_cases(path)


def test_cases_of_every_kind(tmp_path, eisv_data):
    states = generate_trajectory("void_rising", 5, 1.0, 0)
    window, by_states = cases_of(tmp_path, WINDOW, {"states": states})
    assert window.group == "convergence"
    assert window.messages[0] == {"role": "system", "content": SYSTEM_PROMPT}
    assert "window: 4 states over 7s\neisv_mean: E=0.64, I=0.87, S=0.11, V=0.03" in window.messages[1]["content"]
    assert window.expect is None
    assert by_states.group == "void_rising"
    assert "window: 5 states over 4s" in by_states.messages[1]["content"]
    rows = read_cases(eisv_data / "test.jsonl")
    assert {case.group for case in rows} == {s.value for s in TrajectoryShape}
    assert all(case.messages[-1]["role"] == "user" for case in rows)
    assert all("PATTERN: " in case.expect for case in rows)


def test_real_windows_are_cases(realdata):
    cases = read_cases(realdata / "eisv" / "lumen_windows_dev.jsonl")
    assert len(cases) == 249
    assert sum(case.group == "convergence" for case in cases) == 166


def test_the_shape_can_be_left_out_of_the_question(tmp_path):
    (case,) = cases_of(tmp_path, WINDOW)
    (hidden,) = with_shape([case], named=False)
    assert hidden.messages[1]["content"].startswith("TRAJECTORY:\nwindow: 4 states over 7s\n")
    assert (hidden.group, hidden.messages[0]) == (case.group, case.messages[0])
    assert with_shape([hidden], named=True) == [case]


def state(t, **changes):
    return {"t": t, "E": 0.5, "I": 0.5, "S": 0.5, "V": 0.1, **changes}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([1], "a case is a JSON object"),
        ({**WINDOW, "shape": "spiral"}, "shape 'spiral' is unknown; it must be one of settled_presence"),
        ({k: v for k, v in WINDOW.items() if k != "mean"}, "mean.E is missing"),
        ({**WINDOW, "mean": {**WINDOW["mean"], "V": float("nan")}}, "mean.V is missing or no finite number"),
        ({**WINDOW, "n_states": "4"}, "n_states is '4'"),
        ({"states": []}, "at least one state"),
        ({"states": [state(0), state(1, S=float("nan"))]}, "state 2 has no finite number for S"),
        ({"states": [state(0), state(2), state(1)]}, "state 3 is earlier than state 2"),
        ({"states": [state(0), state(1), state(1)]}, "state 3 shares its time with state 2"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant message"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "shape None is unknown",
        ),
    ],
)
def test_bad_cases_are_one_sentence(tmp_path, row, said):
    with pytest.raises(UserError) as error:
        cases_of(tmp_path, WINDOW, row)
    assert said in str(error.value)
    assert "line 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_cases_at_all(tmp_path):
    with pytest.raises(UserError, match="holds no case"):
        cases_of(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_cases(tmp_path / "absent.jsonl")


class Parrot:
    """A backend that always says the same: the suite's arithmetic needs no model."""

    def __init__(self, text):
        from transformers import AutoTokenizer

        from mlx_lora.models.resolve import BUILT_IN

        self.text, self.tokenizer = text, AutoTokenizer.from_pretrained(BUILT_IN["builtin/tiny-lumen"])
        self.base = BaseFacts()

    def peak_memory(self):
        return 0

    def generate(self, prompts, max_tokens, temperature, seed):
        return [self.text] * len(prompts)


def report_of(tmp_path, text, *rows):
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_suite(prepare(load_suite("eisv_gate1"), file), ModelTarget("parrot", Parrot(text)))


def test_the_report_is_what_gate_reads(tmp_path):
    rows = (WINDOW, {**WINDOW, "shape": "void_rising"})
    report = report_of(tmp_path, "EISV_TOKENS: ~stillness~\nLUMEN_TOKENS: quiet\nPATTERN: SINGLE", *rows)
    assert report["mean_coherence"] == report["score"] == 0.5
    assert report["valid_rate"] == 1.0
    assert report["tokens_in_use"] == 1
    assert (report["gate_passed"], report["verdict"]) == (False, "INCONCLUSIVE")
    assert (report["passed"], report["failed"], report["pass_rate"]) == (1, 1, 0.5)
    assert (report["balanced_coherence"], report["balanced"], report["distinct_answers"]) == (0.5, 0.5, 1)
    assert report["best_constant"] == {"answer": "~curiosity~", "score": 0.5, "balanced_score": 0.5}
    assert [result["passed"] for result in report["results"]] == [True, False]
    assert "coherence of 0.000 with void_rising" in report["results"][1]["reason"]
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert read_report(tmp_path / "r.json") == json.loads(json.dumps(report))
    judged = judge_files([tmp_path / "r.json"])
    assert judged["gate_passed"] is False
    assert judged["reasons"] == ["mean coherence 0.500 is not > 0.933"]
    assert [criterion["met"] for criterion in judged["criteria"]] == [False, True]
    silent = report_of(tmp_path, "~joy~ ~joy~", *rows)
    assert (silent["n_valid"], silent["tokens_in_use"], silent["mean_coherence"]) == (0, 0, 0.0)


def test_a_report_that_cannot_be_judged(tmp_path):
    file = tmp_path / "r.json"
    about = {"test_name": "x", "suite": "x", "target": "t"}
    for content, said in [
        ("{", "cannot be read"),
        ("{}", "has no test_name"),
        ("[]", "not a report"),
        (json.dumps({**about, "warnings": [1]}), "warnings must be a list"),
        (json.dumps({**about, "pass_rate": float("nan")}), "pass_rate must be a finite number"),
        (json.dumps({**about, "thresholds": {"valid_rate": float("inf")}}), "holds a number that is not finite"),
        (json.dumps({**about, "format": 9}), "format 9"),
    ]:
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_report(file)


def test_baselines_from_chance_to_the_best_possible(realdata):
    shapes = [case.group for case in read_cases(realdata / "eisv" / "lumen_windows_dev.jsonl")]
    found = {b["condition"]: b["mean_coherence"] for b in run_baselines(shapes)}
    assert list(found) == ["random", "prompt_conditioned", "rules", "rules_with_feedback", "oracle"]
    assert found["random"] == pytest.approx(0.265, abs=0.04)
    assert found["rules"] == pytest.approx(0.503, abs=0.05)
    assert found["rules_with_feedback"] == pytest.approx(0.933, abs=0.03)
    assert found["oracle"] == 1.0


def test_a_case_is_quoted_in_part(tmp_path):
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps({**WINDOW, "shape": ["a"] * 10_000}) + "\n")
    with pytest.raises(UserError, match="line 1: the shape") as caught:
        read_cases(file)
    assert len(str(caught.value)) < 600
