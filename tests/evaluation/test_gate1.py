import json

import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation.eisv_baselines import run_baselines
from mlx_lora.evaluation.eisv_gate1 import criteria, read_cases, read_results, run_gate1, with_shape
from mlx_lora.evaluation.targets import Target
from mlx_lora.models.inspection import BaseFacts
from mlx_lora.sources.eisv import SYSTEM_PROMPT, EvalResults, TrajectoryShape, generate_trajectory

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
    assert window.shape == "convergence"
    assert window.messages[0] == {"role": "system", "content": SYSTEM_PROMPT}
    assert "window: 4 states over 7s\neisv_mean: E=0.64, I=0.87, S=0.11, V=0.03" in window.messages[1]["content"]
    assert window.expected_pattern is None
    assert by_states.shape == "void_rising"
    assert "window: 5 states over 4s" in by_states.messages[1]["content"]
    rows = read_cases(eisv_data / "test.jsonl")
    assert {case.shape for case in rows} == {s.value for s in TrajectoryShape}
    assert all(case.messages[-1]["role"] == "user" for case in rows)
    assert all(case.expected_pattern for case in rows)


def test_real_windows_are_cases(realdata):
    cases = read_cases(realdata / "eisv" / "lumen_windows_dev.jsonl")
    assert len(cases) == 249
    assert sum(case.shape == "convergence" for case in cases) == 166


def test_the_shape_can_be_left_out_of_the_question(tmp_path):
    (case,) = cases_of(tmp_path, WINDOW)
    (hidden,) = with_shape([case], named=False)
    assert hidden.messages[1]["content"].startswith("TRAJECTORY:\nwindow: 4 states over 7s\n")
    assert (hidden.shape, hidden.messages[0]) == (case.shape, case.messages[0])
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

    def generate(self, prompts, max_tokens, temperature, seed):
        return [self.text] * len(prompts)


def test_the_report_is_what_gate_reads(tmp_path):
    cases = cases_of(tmp_path, WINDOW, {**WINDOW, "shape": "void_rising"})
    target = Target("parrot", Parrot("EISV_TOKENS: ~stillness~\nLUMEN_TOKENS: quiet\nPATTERN: SINGLE"))
    report = run_gate1(target, cases)
    assert report["mean_coherence"] == 0.5
    assert report["valid_rate"] == 1.0
    assert report["tokens_in_use"] == 1
    assert report["gate_passed"] is False
    assert (report["balanced_coherence"], report["distinct_answers"]) == (0.5, 1)
    assert report["best_constant"] == {"answer": "~curiosity~", "score": 0.5, "balanced_score": 0.5}
    assert len(report["answers"]) == 2
    (tmp_path / "r.json").write_text(json.dumps(report))
    read, results = read_results(tmp_path / "r.json")
    assert read["suite"] == "eisv_gate1"
    assert isinstance(results, EvalResults)
    assert [met for *_, met in criteria(results)] == [False, True]
    silent = run_gate1(Target("parrot", Parrot("~joy~ ~joy~")), cases)
    assert (silent["n_valid"], silent["tokens_in_use"]) == (0, 0)


def test_results_that_cannot_be_judged(tmp_path):
    file = tmp_path / "r.json"
    for content, said in [("{", "cannot be read"), ("{}", "lack mean_coherence"), ("[]", "lack mean_coherence")]:
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_results(file)
    file.write_text(json.dumps({**EvalResults().__dict__, "warnings": [1]}))
    with pytest.raises(UserError, match="warnings must be a list"):
        read_results(file)
    file.write_text(json.dumps(EvalResults().__dict__))
    assert read_results(file)[0]["warnings"] == []
    broken = {**EvalResults().__dict__, "mean_coherence": float("nan")}
    file.write_text(json.dumps(broken))
    with pytest.raises(UserError, match="mean_coherence is nan"):
        read_results(file)


def test_baselines_from_chance_to_the_best_possible(realdata):
    shapes = [case.shape for case in read_cases(realdata / "eisv" / "lumen_windows_dev.jsonl")]
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
