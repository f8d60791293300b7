"""First-attempt success rate (pass@1) before and after training, on the same prompts and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UserError
from ..sources.traces.prompt_format import format_prompt
from .scorers.command import Guard, Verdict, as_guard
from .statistics.intervals import expected_retries, paired_difference

INTERVAL = "Newcombe 1998, method 10 for paired proportions (Wilson's score intervals), 95 %"

Answer = Callable[[str, int], str]


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
    """Compare the first-attempt success of two models on the same prompts with the same seeds.

    All answers of ``before`` are generated first, so that only one model need be in memory.

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
