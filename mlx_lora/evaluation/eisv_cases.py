"""Cases of eisv_gate1: dataset rows, window summaries, or windows with their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.dataset import is_number
from ..errors import UserError, shortened
from ..sources.eisv import (
    SYSTEM_PROMPT,
    TrajectoryShape,
    classify_trajectory,
    compute_trajectory_window,
    format_summary,
    hide_shape,
    name_shape,
    summarize_window,
)
from .cases import Case, case_of_example, read_cases

GROUPS = {
    "mean": ("E", "I", "S", "V"),
    "derivative": ("dE", "dI", "dS", "dV"),
    "second_derivative": ("d2E", "d2I", "d2S", "d2V"),
}


def read_eisv_cases(path: str | Path) -> list[Case]:
    """Read trajectories to express; the first of ``tags`` is the shape.

    Raises:
        UserError: a line that is none of these, an unknown shape, a value that is not a number, states that are out
            of order or share a time, or no case at all.
    """
    return read_cases(path, parse_eisv_case)


def parse_eisv_case(where: str, number: int, row: dict[str, Any]) -> Case:
    """Return the case of a dataset row or a window; a window's place in the file is its id if it has none."""
    if "messages" in row:
        return _case_of_row(where, number, row)
    if "states" in row:
        window = compute_trajectory_window(_checked_states(where, row["states"]))
        shape, summary = row.get("shape", classify_trajectory(window).value), summarize_window(window)
    else:
        shape, summary = row.get("shape"), _checked_summary(where, row)
    shape = _checked_shape(where, shape)
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": format_summary(shape, summary)},
    ]
    known = row.get("id") if isinstance(row.get("id"), (str, int)) else number
    # Windows of several logs share their ids.
    return Case(f"{number}:{known}" if known != number else str(number), messages, tags=[shape])


def _case_of_row(where: str, number: int, row: dict[str, Any]) -> Case:
    case = case_of_example(where, number, row)
    shape = _checked_shape(where, case.meta.get("shape"))
    return replace(case, id=str(number), tags=[shape])


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
        return name_shape(content, case.group) if named else hide_shape(content)

    return [replace(c, messages=[*c.messages[:-1], {**c.messages[-1], "content": text(c)}]) for c in cases]
