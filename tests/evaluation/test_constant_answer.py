import random

import pytest

from mlx_lora.evaluation.constant_answer import balanced_mean, best_constant, constant_warning
from mlx_lora.evaluation.eisv_cases import read_eisv_cases
from mlx_lora.evaluation.runner import prepare
from mlx_lora.evaluation.scoring import score_text
from mlx_lora.evaluation.suite import load_suite
from mlx_lora.evaluation.suite_report import suite_metrics
from mlx_lora.sources.eisv import ALL_TOKENS, expression_trajectory_coherence


def same(name, answer):
    return float(name == answer)


def test_balanced_mean_weighs_classes_alike():
    assert balanced_mean(["a", "a", "a", "b"], [1.0, 1.0, 0.4, 0.0]) == pytest.approx(0.4)
    assert balanced_mean([], []) == 0.0


def test_best_constant():
    best = best_constant(["a"] * 9 + ["b"], ["b", "a"], same)
    assert (best.answer, best.score, best.balanced_score) == ("a", 0.9, 0.5)
    assert constant_warning(best, "accuracy", 0.9) == []
    (said,) = constant_warning(best, "accuracy", 0.85)
    assert said == (
        "these cases cannot tell a model from a constant: a alone scores 0.900, above the threshold 0.85; "
        "judge by balanced_accuracy, where it scores 0.500"
    )
    assert best_constant(["a"], [], same) is None
    assert constant_warning(None, "accuracy", 0.5) == []


def test_no_expression_beats_the_best_token():
    """The suite tries single tokens only; two or three never reach more."""
    rng = random.Random(0)
    for _ in range(50):
        shapes = rng.choices(["convergence", "void_rising", "rising_entropy", "falling_energy"], k=12)
        best = best_constant(shapes, ALL_TOKENS, lambda shape, token: expression_trajectory_coherence(shape, [token]))
        for _ in range(50):
            tokens = rng.choices(ALL_TOKENS, k=rng.choice((2, 3)))
            score = sum(expression_trajectory_coherence(s, tokens) for s in shapes) / 12
            assert score <= best.score + 1e-12


def measured(cases_file, text):
    """Metrics of eisv_gate1 where every case has the same answer."""
    evaluation = prepare(load_suite("eisv_gate1"), cases_file)
    scores = [score_text(evaluation.scorers, case, text) for case in evaluation.cases]
    return suite_metrics(evaluation.suite, evaluation.cases, [text] * len(scores), scores)


def test_real_windows_cannot_tell_a_model_from_a_constant(realdata):
    windows = realdata / "eisv" / "lumen_windows_dev.jsonl"
    assert len(read_eisv_cases(windows)) == 249
    report = measured(windows, "EISV_TOKENS: ~stillness~\nLUMEN_TOKENS: quiet\nPATTERN: SINGLE")
    best = report["best_constant"]
    assert best["answer"] == "~stillness~"
    # 166 convergence, 71 settled_presence and 4 falling_energy of 249; 3 shapes of 8.
    assert best["score"] == pytest.approx(241 / 249)
    assert best["balanced_score"] == pytest.approx(3 / 8)
    assert report["balanced_coherence"] == pytest.approx(3 / 8)
    assert "~stillness~ alone scores 0.968" in report["warnings"][0]


def test_synthetic_cases_can(eisv_data):
    report = measured(eisv_data / "test.jsonl", "no answer")
    assert report["warnings"] == []
    # ~stillness~ and ~questioning~ are affine to three of the nine shapes each.
    assert report["best_constant"]["score"] == pytest.approx(1 / 3)
    assert report["balanced_coherence"] == 0.0
