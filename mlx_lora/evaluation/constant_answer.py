"""Trivial baselines of a set of cases: the best constant answer, and the mean over classes (macro average)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")
# (class of the case, answer) -> score in [0, 1]
Score = Callable[[str, Answer], float]


@dataclass
class ConstantAnswer(Generic[Answer]):
    """Constant answer, given to every case: its mean score over the cases, and over the classes."""

    answer: Answer
    score: float
    balanced_score: float


def mean(values: Iterable[float]) -> float:
    """Return the mean, 0.0 where there are no values."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def balanced_mean(classes: Sequence[str], scores: Sequence[float]) -> float:
    """Return the mean over classes of each class's mean score, 0.0 for no cases."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, score in zip(classes, scores, strict=True):
        found[name].append(score)
    return mean(map(mean, found.values()))


def best_constant(
    classes: Sequence[str], candidates: Iterable[Answer], score: Score[Answer]
) -> ConstantAnswer[Answer] | None:
    """Return the candidate with the highest mean score over the cases (the first of equals), None without candidates.

    Args:
        classes: the class of each case; the score of an answer depends on nothing else.
    """
    counts = {name: classes.count(name) for name in dict.fromkeys(classes)}
    best: ConstantAnswer[Answer] | None = None
    for candidate in candidates:
        scores = {name: score(name, candidate) for name in counts}
        total = sum(scores[name] * count for name, count in counts.items())
        reached = total / len(classes) if classes else 0.0
        if best is None or reached > best.score:
            best = ConstantAnswer(candidate, reached, mean(scores.values()))
    return best


def constant_warning(best: ConstantAnswer[Any] | None, measure: str, threshold: float) -> list[str]:
    """Return a warning if the best constant answer is above the threshold of ``measure``, else no sentence."""
    if best is None or best.score <= threshold:
        return []
    return [
        f"these cases cannot tell a model from a constant: {best.answer} alone scores {best.score:.3f}, above the "
        f"threshold {threshold}; judge by balanced_{measure}, where it scores {best.balanced_score:.3f}"
    ]
