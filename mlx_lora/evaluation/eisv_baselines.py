"""Baselines of EISV expressions without a model: chance, rules and the best possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..sources.eisv import ExpressionGenerator, expression_trajectory_coherence, feedback_generator
from .eisv_scoring import BaselineCondition, evaluate_baseline


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
