"""Does it help? First-attempt success before and after training, on the same prompts and seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import UserError
from .guard import Guard, Verdict, as_guard
from .prompt_format import format_prompt

INTERVAL = "Newcombe 1998, method 10 for paired proportions (Wilson's score intervals), 95 %"
Z95 = 1.959963984540054

Answer = Callable[[str, int], str]


def wilson(successes: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209–212); total at least 1."""
    p, square = successes / total, z * z
    middle = p + square / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + square / (4 * total * total))
    scale = 1 + square / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def paired_difference(both: int, first: int, second: int, neither: int, z: float = Z95) -> tuple[float, float]:
    """The interval of p₁ − p₂ from pairs: Newcombe 1998, Statistics in Medicine 17, 2635–2650, method 10.

    Samples are taken as independent: ten specifications say more than ten answers to one.

    Args:
        both, first, second, neither: pairs in which both, only the first, only the second, none succeeded.
    """
    total = both + first + second + neither
    p1, p2 = (both + first) / total, (both + second) / total
    (l1, u1), (l2, u2) = wilson(both + first, total, z), wilson(both + second, total, z)
    phi = _correlation(both, first, second, neither)
    low = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    high = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    difference = p1 - p2
    return difference - math.sqrt(max(0.0, low)), difference + math.sqrt(max(0.0, high))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """φ between the two answers of a pair, with Newcombe's continuity correction where it is positive."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    cross: float = both * neither - first * second
    if cross > 0:
        cross = max(cross - (both + first + second + neither) / 2, 0)
    return cross / math.sqrt(margins)


def expected_retries(successes: int, total: int) -> float | None:
    """E[retries] = (1 − p) / p, the mean of attempts before the first success; ``None`` where nothing succeeded."""
    return (total - successes) / successes if successes else None


def _side(passed: Sequence[bool]) -> dict[str, Any]:
    successes, total = sum(passed), len(passed)
    return {
        "successes": successes,
        "total": total,
        "success_rate": successes / total,
        "expected_retries": expected_retries(successes, total),
    }


def _judge(answer: Answer, prompts: Sequence[tuple[str, int]], guard: Callable[[str], Verdict]) -> list[Verdict]:
    # A completion model may give the prompt back before its answer; the guard must not see it.
    return [guard(answer(prompt, seed).removeprefix(prompt)) for prompt, seed in prompts]


def evaluate_improvement(
    before: Answer,
    after: Answer,
    specs: Sequence[str],
    guard: Guard,
    num_samples: int = 5,
    seed: int = 42,
    *,
    time_limit: float = 60.0,
    suffix: str = ".txt",
    prompt: Callable[[str], str] = lambda spec: format_prompt(spec, []),
) -> dict[str, Any]:
    """First-attempt success of two models on the same prompts with the same seeds.

    All of ``before`` is asked first, so that only one model need be in memory.

    Args:
        before, after: (prompt, seed) -> answer, the prompt not part of it.
        specs: specifications; ``prompt`` makes the first attempt's prompt of each.
        guard: see :func:`~mlx_lora.sources.traces.as_guard`, as are ``time_limit`` (seconds) and ``suffix``.
        num_samples: answers to each; sample j of specification i has the seed ``seed + i * num_samples + j``.

    Returns:
        "before" and "after" (successes, total, success_rate, expected_retries), "improvement" (difference of the
        rates), its "confidence_interval" [low, high] and the name of its "formula", "relative_improvement", and
        "guard_errors". What is infinite (no success at all) is ``None``, so that all of it is JSON.

    Raises:
        UserError: no specification, no sample, or a guard that cannot be run.
    """
    if isinstance(specs, str) or not specs:
        raise UserError("there is no specification to compare on; give a list with at least one")
    if num_samples < 1:
        raise UserError(f"num_samples {num_samples} must be at least 1")
    judge = as_guard(guard, time_limit, suffix)
    prompts = [(prompt(spec), seed + i * num_samples + j) for i, spec in enumerate(specs) for j in range(num_samples)]
    old, new = _judge(before, prompts, judge), _judge(after, prompts, judge)
    pairs = Counter((n.passed, o.passed) for n, o in zip(new, old, strict=True))
    interval = paired_difference(pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False])
    first, second = _side([v.passed for v in old]), _side([v.passed for v in new])
    improvement = second["success_rate"] - first["success_rate"]
    return {
        "before": first,
        "after": second,
        "before_success_rate": first["success_rate"],
        "after_success_rate": second["success_rate"],
        "improvement": improvement,
        "confidence_interval": list(interval),
        "formula": INTERVAL,
        "relative_improvement": improvement / first["success_rate"] if first["success_rate"] else None,
        "num_samples": num_samples,
        "seed": seed,
        "guard_errors": dict(Counter(v.error for v in [*old, *new] if v.error)),
    }
