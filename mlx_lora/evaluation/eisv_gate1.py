"""Evaluation suite eisv_gate1: coherence and format of a model's expressions of trajectories."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..data.dataset import is_number, parse_example, read_jsonl
from ..errors import UserError, shortened
from ..files import FORMAT, check_format
from ..sources.eisv import (
    ALL_TOKENS,
    GATE1_COHERENCE,
    SYSTEM_PROMPT,
    OutputParseResult,
    TrajectoryShape,
    classify_trajectory,
    compute_trajectory_window,
    expression_trajectory_coherence,
    format_summary,
    hide_shape,
    name_shape,
    parse_model_output,
    summarize_window,
    validate_output,
)
from ..user_files import read_text
from .constant_answer import balanced_mean, best_constant, constant_warning
from .eisv_scoring import GATE1_VALID_RATE, EvalResults, check_gate1, evaluate_predictions
from .targets import Messages, Target, answer

SUITE = "eisv_gate1"
GROUPS = {
    "mean": ("E", "I", "S", "V"),
    "derivative": ("dE", "dI", "dS", "dV"),
    "second_derivative": ("d2E", "d2I", "d2S", "d2V"),
}


@dataclass
class Case:
    """Trajectory to express: its shape, the prompt, and the pattern of the reference answer, if there is one."""

    shape: str
    messages: Messages
    expected_pattern: str | None = None


def read_cases(path: str | Path) -> list[Case]:
    """Read cases from dataset rows, from window summaries, or from windows with their states.

    Raises:
        UserError: a line that is none of these, an unknown shape, a value that is not a number, states that are out
            of order or share a time, or no case at all.
    """
    cases = [_parse_case(where, row) for where, row in read_jsonl(path)]
    if not cases:
        raise UserError(f"{path}: the file holds no case; give dataset rows or trajectory windows, one a line")
    return cases


def _parse_case(where: str, row: Any) -> Case:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a case is a JSON object, not {shortened(row)}")
    if "messages" in row:
        return _case_of_example(where, row)
    if "states" in row:
        window = compute_trajectory_window(_checked_states(where, row["states"]))
        shape, summary = row.get("shape", classify_trajectory(window).value), summarize_window(window)
    else:
        shape, summary = row.get("shape"), _checked_summary(where, row)
    return Case(_checked_shape(where, shape), _prompt(format_summary(shape, summary)))


def _prompt(text: str) -> Messages:
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]


def _case_of_example(where: str, row: dict[str, Any]) -> Case:
    example = parse_example(where, row)
    last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
    shape = _checked_shape(where, example.meta.get("shape"))
    reference = parse_model_output(example.messages[last]["content"])
    return Case(shape, example.messages[:last], reference.pattern or None)


def _checked_shape(where: str, shape: Any) -> str:
    names = [s.value for s in TrajectoryShape]
    if shape not in names:
        raise UserError(f"{where}: the shape {shortened(shape)} is unknown; it must be one of {', '.join(names)}")
    return shape


def _checked_summary(where: str, row: dict[str, Any]) -> dict[str, Any]:
    for name in ("n_states", "duration_s"):
        if not is_number(row.get(name)):
            raise UserError(f"{where}: {name} is {shortened(row.get(name))}, and a window needs a number there")
    for group, keys in GROUPS.items():
        values = row.get(group)
        for key in keys:
            if not isinstance(values, dict) or not is_number(values.get(key)):
                raise UserError(f"{where}: {group}.{key} is missing or no finite number")
    return row


def _checked_states(where: str, states: Any) -> list[dict[str, Any]]:
    if not isinstance(states, list) or not states:
        raise UserError(f"{where}: states must be a list of at least one state")
    for number, state in enumerate(states, 1):
        if not isinstance(state, dict):
            raise UserError(f"{where}: state {number} is no object")
        for key in ("t", *GROUPS["mean"], *(["ethical_drift"] if "ethical_drift" in state else [])):
            if not is_number(state.get(key)):
                raise UserError(f"{where}: state {number} has no finite number for {key}")
        if number > 1 and state["t"] <= states[number - 2]["t"]:
            how = "shares its time with" if state["t"] == states[number - 2]["t"] else "is earlier than"
            raise UserError(
                f"{where}: state {number} {how} state {number - 1}; put the states in order of t, each once"
            )
    return states


def with_shape(cases: Sequence[Case], named: bool) -> list[Case]:
    """Return the cases with the shape's name in the last message's text, or without it."""

    def text(case: Case) -> str:
        content = case.messages[-1]["content"]
        return name_shape(content, case.shape) if named else hide_shape(content)

    return [replace(c, messages=[*c.messages[:-1], {**c.messages[-1], "content": text(c)}]) for c in cases]


def measure_cases(cases: Sequence[Case], parsed: Sequence[OutputParseResult]) -> dict[str, Any]:
    """Return the metrics in addition to the published rule: the mean over shapes and the best constant answer.

    An invalid answer counts as 0 in ``balanced_coherence``. No constant expression scores more than its best token.
    """
    shapes = [case.shape for case in cases]
    scores = [
        expression_trajectory_coherence(shape, p.eisv_tokens) if validate_output(p) else 0.0
        for shape, p in zip(shapes, parsed, strict=True)
    ]
    best = best_constant(shapes, ALL_TOKENS, lambda shape, token: expression_trajectory_coherence(shape, [token]))
    return {
        "balanced_coherence": balanced_mean(shapes, scores),
        "best_constant": None if best is None else asdict(best),
        "warnings": constant_warning(best, "coherence", GATE1_COHERENCE),
    }


def run_gate1(
    target: Target,
    cases: Sequence[Case],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    max_tokens: int = 128,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Generate an answer to every case and score it; return the report that ``gate`` reads."""
    texts = answer(
        target, [c.messages for c in cases], max_tokens=max_tokens, temperature=temperature, seed=seed, advance=advance
    )
    parsed = [parse_model_output(text) for text in texts]
    predictions = [
        {"shape": c.shape, "parsed": p, "expected_pattern": c.expected_pattern}
        for c, p in zip(cases, parsed, strict=True)
    ]
    results = evaluate_predictions(predictions)
    passed, reasons = check_gate1(results)
    measured = measure_cases(cases, parsed)
    return {
        "format": FORMAT,
        "suite": SUITE,
        "target": target.name,
        **asdict(results),
        **measured,
        "warnings": [*target.warnings, *measured["warnings"]],
        "distinct_answers": len({text.strip() for text in texts}),
        "gate_passed": passed,
        "reasons": reasons,
        "tokens_in_use": len({token for p in parsed if validate_output(p) for token in p.eisv_tokens}),
        "temperature": temperature,
        "seed": seed,
        "answers": [
            {"shape": c.shape, "prompt": c.messages[-1]["content"], "answer": t}
            for c, t in zip(cases, texts, strict=True)
        ],
    }


def read_results(path: str | Path) -> tuple[dict[str, Any], EvalResults]:
    """Read a report written by ``eval``, and the results in it.

    Raises:
        UserError: the file is missing, not JSON, of another suite, or incomplete.
    """
    try:
        report = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: these results cannot be read ({error}); write them with `mlx-lora eval --out`"
        ) from error
    if isinstance(report, dict):
        check_format(report, Path(path))
    names = [f.name for f in fields(EvalResults)]
    missing = [name for name in names if not isinstance(report, dict) or name not in report]
    if missing:
        raise UserError(f"{path}: the results lack {missing[0]}; write them with `mlx-lora eval --suite {SUITE} --out`")
    for name in ("mean_coherence", "valid_rate", "n_total"):
        if not is_number(report[name]):
            raise UserError(f"{path}: {name} is {shortened(report[name])}, and it must be a finite number")
    for name in ("suite", "target"):
        if not isinstance(report.get(name, ""), str):
            raise UserError(f"{path}: {name} must be text; write the results with `mlx-lora eval --out`")
    warnings = report.setdefault("warnings", [])
    if not (isinstance(warnings, list) and all(isinstance(warning, str) for warning in warnings)):
        raise UserError(f"{path}: warnings must be a list of sentences; write the results with `mlx-lora eval --out`")
    return report, EvalResults(**{name: report[name] for name in names})


def criteria(results: EvalResults) -> list[tuple[str, str, str, bool]]:
    """Return (criterion, threshold, value, met) for each criterion of Gate 1."""
    return [
        (
            "mean coherence",
            f"> {GATE1_COHERENCE}",
            f"{results.mean_coherence:.3f}",
            results.mean_coherence > GATE1_COHERENCE,
        ),
        (
            "valid rate",
            f"≥ {GATE1_VALID_RATE:.2f}",
            f"{results.valid_rate:.3f}",
            results.valid_rate >= GATE1_VALID_RATE,
        ),
    ]
