import random
import subprocess
import sys
from statistics import mean

import pytest

from mlx_lora.sources.eisv import (
    ALL_TOKENS,
    INQUIRY_TOKENS,
    LUMEN_TOKENS,
    SHAPE_PATTERN_WEIGHTS,
    SHAPE_TOKEN_AFFINITY,
    TOKEN_MAP,
    BaselineCondition,
    EvalResults,
    ExpressionGenerator,
    OutputParseResult,
    TrajectoryShape,
    check_gate1,
    eisv_state_to_lumen_state,
    evaluate_baseline,
    evaluate_predictions,
    expression_trajectory_coherence,
    feedback_generator,
    feedback_labeller,
    generate_baseline_tokens,
    generate_lumen_expression,
    parse_model_output,
    shape_classification_accuracy,
    shape_to_lumen_trigger,
    translate_expression,
    vocabulary_diversity_per_shape,
)

SHAPES = [s.value for s in TrajectoryShape]


def test_importing_the_source_imports_no_framework():
    code = (
        "import sys, mlx_lora.sources.eisv; "
        "print([m for m in ('mlx', 'mlx_lm', 'torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_vocabularies_are_whole():
    assert len(ALL_TOKENS) == 15
    assert ALL_TOKENS[0] == "~warmth~"
    assert ALL_TOKENS[-1] == "~return~"
    assert len(LUMEN_TOKENS) == 16
    assert set(TOKEN_MAP) == set(ALL_TOKENS)
    assert {p for primitives in TOKEN_MAP.values() for p in primitives} <= set(LUMEN_TOKENS)
    assert set(SHAPE_TOKEN_AFFINITY) == set(SHAPE_PATTERN_WEIGHTS) == set(SHAPES)
    assert all(sum(w.values()) == pytest.approx(1) for w in SHAPE_PATTERN_WEIGHTS.values())
    assert {t for tokens in SHAPE_TOKEN_AFFINITY.values() for t in tokens} == set(ALL_TOKENS)


def test_generator_weights_and_feedback():
    generator = ExpressionGenerator(seed=1)
    weights = generator.get_weights("convergence")
    assert weights["~stillness~"] == 3.0
    assert weights["~warmth~"] == 1.0
    weights["~warmth~"] = 99
    assert generator.get_weights("convergence")["~warmth~"] == 1.0
    assert generator.get_weights("spiral") == {}
    generator.update_weights("convergence", ["~warmth~", "~stillness~"], 1.0)
    assert generator.get_weights("convergence")["~warmth~"] == pytest.approx(1.08)
    for _ in range(200):
        generator.update_weights("convergence", ["~warmth~"], 0.0)
        generator.update_weights("convergence", ["~stillness~"], 1.0)
    assert generator.get_weights("convergence")["~warmth~"] == 0.1
    assert generator.get_weights("convergence")["~stillness~"] == 10.0
    generator.update_weights("spiral", ["~warmth~"], 1.0)
    assert generator.get_weights("settled_presence")["~warmth~"] == 1.0


def test_generated_patterns():
    generator = ExpressionGenerator(seed=3)
    drawn = [generator.generate("rising_entropy") for _ in range(2000)]
    assert {len(tokens) for tokens in drawn} == {1, 2, 3}
    assert all(len(set(tokens)) == 3 for tokens in drawn if len(tokens) == 3)
    assert mean(len(tokens) == 3 for tokens in drawn) == pytest.approx(0.3, abs=0.04)
    assert mean(len(t) == 2 and t[1] in INQUIRY_TOKENS for t in drawn) > 0.3
    assert ExpressionGenerator(seed=3).generate("void_rising") == ExpressionGenerator(seed=3).generate("void_rising")
    assert set(generator.generate("spiral")) <= set(ALL_TOKENS)


def coherence_of(generate):
    return mean(expression_trajectory_coherence(s, generate(s)) for s in SHAPES for _ in range(400))


def test_coherence_of_labels_before_and_after_feedback():
    """The published figures, over the shapes of real windows: 0.503 and 0.933; evenly over shapes a little less."""
    assert coherence_of(ExpressionGenerator(seed=0).generate) == pytest.approx(0.50, abs=0.03)
    assert coherence_of(feedback_generator(seed=0).generate) > 0.88
    label = feedback_labeller(0)
    assert coherence_of(label) > 0.99
    assert {token for s in SHAPES for _ in range(60) for token in label(s)} == set(ALL_TOKENS)


def test_translation_uses_each_primitive_once():
    assert translate_expression(["~warmth~", "~stillness~"]) == ["warm", "quiet"]
    assert translate_expression(["~stillness~", "~deep_listening~"]) == ["quiet", "sense"]
    assert translate_expression(["~warmth~", "~warmth~", "~warmth~"]) == ["warm", "feel"]
    assert translate_expression(["~unknown~", "~ripple~"]) == ["busy"]
    assert len(translate_expression(ALL_TOKENS)) == 3


def test_lumen_state_and_trigger():
    assert eisv_state_to_lumen_state({"E": 0.6, "I": 1.2, "S": 0.25, "V": 0.15}) == {
        "warmth": 0.6,
        "clarity": 1.0,
        "stability": 0.75,
        "presence": pytest.approx(0.5),
    }
    assert eisv_state_to_lumen_state({}) == {"warmth": 0, "clarity": 0, "stability": 1, "presence": 1}
    assert shape_to_lumen_trigger("rising_entropy") == {
        "should_generate": True,
        "reason": "entropy_shift",
        "token_count_hint": 3,
    }
    assert shape_to_lumen_trigger("spiral") == {
        "should_generate": False,
        "reason": "unknown_shape",
        "token_count_hint": 0,
    }
    made = generate_lumen_expression(TrajectoryShape.CONVERGENCE, {"E": 0.5}, ExpressionGenerator(2))
    assert set(made) == {"shape", "eisv_tokens", "lumen_tokens", "lumen_state", "trigger"}
    assert made["shape"] == "convergence"
    assert made["lumen_tokens"] == translate_expression(made["eisv_tokens"])


def test_coherence_accuracy_and_diversity():
    assert expression_trajectory_coherence("convergence", ["~stillness~", "~warmth~"]) == 0.5
    assert expression_trajectory_coherence("convergence", []) == 0.0
    assert expression_trajectory_coherence("spiral", ["~warmth~"]) == 0.0
    assert shape_classification_accuracy(["a", "b"], ["a", "c"]) == 0.5
    assert shape_classification_accuracy([], []) == 0.0
    with pytest.raises(ValueError, match="as many"):
        shape_classification_accuracy(["a"], [])
    records = [{"shape": "a", "tokens": ["x", "x"]}, {"shape": "a", "tokens": ["y", "x"]}, {"shape": "b", "tokens": []}]
    assert vocabulary_diversity_per_shape(records) == {"a": 0.5, "b": 0.0}


def test_baselines():
    records = [{"shape": s} for s in SHAPES] * 100
    reached = {c: evaluate_baseline(records, c)["mean_coherence"] for c in BaselineCondition}
    assert reached[BaselineCondition.RANDOM] == pytest.approx(0.252, abs=0.02)
    assert reached[BaselineCondition.SHAPE_MATCHED] == 1.0
    assert reached[BaselineCondition.PROMPT_CONDITIONED] == pytest.approx(0.7 + 0.3 * 0.252, abs=0.02)
    result = evaluate_baseline(records, "random", n_tokens=2, seed=1)
    assert result == evaluate_baseline(records, "random", n_tokens=2, seed=1)
    assert set(result) == {"condition", "mean_coherence", "per_shape_coherence", "diversity", "n_records"}
    assert evaluate_baseline([], "random")["mean_coherence"] == 0.0
    assert len(generate_baseline_tokens("convergence", "random", 5, random.Random(0))) == 5


ANSWER = "EISV_TOKENS: ~stillness~ ~warmth~\nLUMEN_TOKENS: quiet warm\nPATTERN: PAIR"


def test_predictions_are_judged_over_valid_answers():
    valid, broken = parse_model_output(ANSWER), parse_model_output("hello")
    strange = parse_model_output(ANSWER.replace("~warmth~", "~joy~"))
    results = evaluate_predictions(
        [
            {"shape": "convergence", "parsed": valid, "expected_pattern": "PAIR"},
            {"shape": "convergence", "parsed": valid, "expected_pattern": "SINGLE"},
            {"shape": "convergence", "parsed": broken, "expected_pattern": "PAIR"},
            {"shape": "void_rising", "parsed": strange},
        ]
    )
    assert results == EvalResults(0.5, 0.5, 0.5, 4, 2, {"convergence": 0.5}, 0.5)
    assert evaluate_predictions([]) == EvalResults(0, 0, 0, 0, 0, {}, 0)


def test_gate1_names_what_failed():
    good = EvalResults(0.94, 0.9, 0, 10, 9, {}, 0)
    assert check_gate1(good) == (True, [])
    passed, reasons = check_gate1(EvalResults(0.933, 0.89, 0, 10, 9, {}, 0))
    assert not passed
    assert len(reasons) == 2
    assert "0.933" in reasons[0]
    assert "valid" in reasons[1]
    assert check_gate1(EvalResults(float("nan"), 1.0, 0, 1, 1, {}, 0))[0] is False


def test_parsing_never_raises():
    assert parse_model_output(ANSWER) == OutputParseResult(["~stillness~", "~warmth~"], ["quiet", "warm"], "PAIR", True)
    assert parse_model_output("PATTERN: PAIR\nEISV_TOKENS: ~a~").valid is False
    for text in ("", ":", "\x00", "EISV_TOKENS", None, "PATTERN:\nPATTERN:"):
        assert parse_model_output(text).valid is False
