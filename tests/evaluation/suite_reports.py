"""Suite reports as `mlx-lora eval` writes them, for tests of what is made from them."""

from __future__ import annotations

from typing import Any

from mlx_lora.evaluation.statistics.intervals import verdict, wilson

PERFORMANCE = {"load_s": 1.26, "first_token_s": 0.084, "tokens_per_s": 1234.5, "peak_memory_bytes": 5.5e9}


def result(case: str, passed: bool, answer: str | None, prompt: str = "Say it.", **fields: Any) -> dict[str, Any]:
    """Return the result of one case; without an answer it was not answered."""
    error = None if answer is not None else "the server closed the connection"
    reason = "" if passed else f"not answered: {error}" if error else "## Plan is missing"
    row = {"id": case, "tags": ["one"], "passed": passed, "reason": reason, "metrics": {"found": 0.5}}
    return {**row, "prompt": prompt, "answer": answer, "error": error, **fields}


def suite_report(suite: str, results: list[dict[str, Any]], threshold: float = 0.9, **fields: Any) -> dict[str, Any]:
    """Return the report of these results."""
    passed, total = sum(row["passed"] for row in results), len(results)
    rate, found = passed / total, verdict(passed, total, threshold)
    judged = {
        "verdict": found.verdict,
        "interval": list(wilson(passed, total)),
        "cases_needed": found.cases_needed or None,
    }
    asked = f"≥ {threshold:g}"
    return {
        "suite": suite,
        "test_name": suite,
        "description": "each section is there",
        "timestamp": "2026-11-27T10:00:00+00:00",
        "target": "runs/one",
        "gate": "ship",
        "total_tests": total,
        "passed": passed,
        "failed": total - passed,
        "not_answered": sum(row["answer"] is None for row in results),
        "pass_rate": rate,
        "threshold": threshold,
        "measure": "pass_rate",
        "score": rate,
        "gate_passed": rate >= threshold,
        **judged,
        "criteria": [
            {"criterion": "pass rate", "asked": asked, "reached": rate, "met": rate >= threshold, **judged},
        ],
        "reasons": [] if rate >= threshold else [f"pass rate {rate:.3f} is not {asked}"],
        "balanced": rate,
        "best_constant": {"answer": "## The constant", "score": 0.25, "balanced_score": 0.2},
        "distinct_answers": len({row["answer"] for row in results}),
        "warnings": [],
        "max_tokens": 512,
        "temperature": 0.7,
        "seed": 0,
        "cases": "prompts/one.jsonl",
        "performance": PERFORMANCE,
        "results": results,
        **fields,
    }
