"""Scores of EISV expressions: validity, diversity, baselines and Gate 1."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..sources.eisv.generator import ExpressionGenerator, feedback_generator
from ..sources.eisv.prompt_format import pattern_name, validate_output
from ..sources.eisv.trajectory import TrajectoryShape, shape_name
from ..sources.eisv.vocabulary import ALL_TOKENS, GATE1_COHERENCE, SHAPE_TOKEN_AFFINITY, expression_trajectory_coherence

# The share of well-formed outputs that Gate 1 requires.
GATE1_VALID_RATE = 0.90
AFFINE_SHARE = 0.7


class BaselineCondition(str, Enum):
    """Condition under which a baseline draws its tokens."""

    RANDOM = "random"
    SHAPE_MATCHED = "shape_matched"
    PROMPT_CONDITIONED = "prompt_conditioned"


@dataclass
class EvalResults:
    """Metrics that Gate 1 checks: rates in [0, 1], diversity as distinct over all tokens of valid outputs."""

    mean_coherence: float = 0.0
    valid_rate: float = 0.0
    pattern_accuracy: float = 0.0
    n_total: int = 0
    n_valid: int = 0
    per_shape_coherence: dict[str, float] = field(default_factory=dict)
    diversity: float = 0.0


def shape_classification_accuracy(predicted: Sequence[str], actual: Sequence[str]) -> float:
    """Return the accuracy, the share of equal positions; 0.0 for none.

    Raises:
        ValueError: the two differ in length.
    """
    if len(predicted) != len(actual):
        raise ValueError(f"{len(predicted)} predictions for {len(actual)} shapes: there must be as many")
    hits = sum(shape_name(p) == shape_name(a) for p, a in zip(predicted, actual, strict=True))
    return hits / len(actual) if actual else 0.0


def _diversity(tokens: Sequence[str]) -> float:
    return len(set(tokens)) / len(tokens) if tokens else 0.0


def vocabulary_diversity_per_shape(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the vocabulary diversity (distinct over all tokens) per shape of records with "shape" and "tokens"."""
    tokens: dict[str, list[str]] = defaultdict(list)
    for record in records:
        tokens[shape_name(record["shape"])] += record["tokens"]
    return {shape: _diversity(found) for shape, found in tokens.items()}


def generate_baseline_tokens(
    shape: TrajectoryShape | str,
    condition: BaselineCondition | str,
    n_tokens: int = 3,
    rng: random.Random | None = None,
) -> list[str]:
    """Draw tokens without a model: any, always affine, or 70 % affine."""
    rng = rng or random.Random()
    condition = BaselineCondition(condition)
    affine = SHAPE_TOKEN_AFFINITY.get(shape_name(shape)) or ALL_TOKENS
    share = {BaselineCondition.RANDOM: 0.0, BaselineCondition.SHAPE_MATCHED: 1.0}.get(condition, AFFINE_SHARE)
    return [rng.choice(affine if rng.random() < share else ALL_TOKENS) for _ in range(n_tokens)]


def mean_by_shape(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the mean score of each shape in ``(shape, score)`` pairs."""
    found: dict[str, list[float]] = defaultdict(list)
    for shape, score in scores:
        found[shape].append(score)
    return {shape: sum(values) / len(values) for shape, values in found.items()}


def evaluate_baseline(
    records: Sequence[Mapping[str, Any]], condition: BaselineCondition | str, n_tokens: int = 3, seed: int = 42
) -> dict[str, Any]:
    """Measure the coherence and diversity of one baseline over records with a "shape"."""
    rng = random.Random(seed)
    condition = BaselineCondition(condition)
    drawn = [(shape_name(r["shape"]), generate_baseline_tokens(r["shape"], condition, n_tokens, rng)) for r in records]
    scores = [(shape, expression_trajectory_coherence(shape, tokens)) for shape, tokens in drawn]
    return {
        "condition": condition.value,
        "mean_coherence": sum(s for _, s in scores) / len(scores) if scores else 0.0,
        "per_shape_coherence": mean_by_shape(scores),
        "diversity": vocabulary_diversity_per_shape([{"shape": s, "tokens": t} for s, t in drawn]),
        "n_records": len(records),
    }


def _rules(shapes: Sequence[str], generate: Callable[[str], list[str]], name: str) -> dict[str, Any]:
    drawn = [(shape, generate(shape)) for shape in shapes]
    return {
        "condition": name,
        "mean_coherence": sum(expression_trajectory_coherence(s, t) for s, t in drawn) / len(drawn),
        "tokens_in_use": len({token for _, tokens in drawn for token in tokens}),
    }


def run_baselines(shapes: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Return the coherence of random, prompt-conditioned, rules, rules with feedback and oracle, in this order."""
    records = [{"shape": shape} for shape in shapes]

    def baseline(condition: BaselineCondition, name: str) -> dict[str, Any]:
        result = evaluate_baseline(records, condition, seed=seed)
        return {"condition": name, "mean_coherence": result["mean_coherence"]}

    return [
        baseline(BaselineCondition.RANDOM, "random"),
        baseline(BaselineCondition.PROMPT_CONDITIONED, "prompt_conditioned"),
        _rules(shapes, ExpressionGenerator(seed).generate, "rules"),
        _rules(shapes, feedback_generator(seed).generate, "rules_with_feedback"),
        baseline(BaselineCondition.SHAPE_MATCHED, "oracle"),
    ]


def evaluate_predictions(predictions: Sequence[Mapping[str, Any]]) -> EvalResults:
    """Score ``{"shape", "parsed", "expected_pattern"?}`` records, parsed by ``parse_model_output``."""
    if not predictions:
        return EvalResults()
    valid = [p for p in predictions if validate_output(p["parsed"])]
    scores = [
        (shape_name(p["shape"]), expression_trajectory_coherence(p["shape"], p["parsed"].eisv_tokens)) for p in valid
    ]
    matches = [p["parsed"].pattern == pattern_name(p["expected_pattern"]) for p in valid if p.get("expected_pattern")]
    return EvalResults(
        mean_coherence=sum(s for _, s in scores) / len(scores) if scores else 0.0,
        valid_rate=len(valid) / len(predictions),
        pattern_accuracy=sum(matches) / len(matches) if matches else 0.0,
        n_total=len(predictions),
        n_valid=len(valid),
        per_shape_coherence=mean_by_shape(scores),
        diversity=_diversity([token for p in valid for token in p["parsed"].eisv_tokens]),
    )


def check_gate1(results: EvalResults) -> tuple[bool, list[str]]:
    """Return True if Gate 1 is passed, and a sentence for each criterion that is not met."""
    reasons = []
    if not results.mean_coherence > GATE1_COHERENCE:
        reasons.append(f"mean coherence {results.mean_coherence:.3f} is not above {GATE1_COHERENCE}")
    if not results.valid_rate >= GATE1_VALID_RATE:
        reasons.append(f"valid rate {results.valid_rate:.3f} is below {GATE1_VALID_RATE:.2f}")
    return not reasons, reasons
