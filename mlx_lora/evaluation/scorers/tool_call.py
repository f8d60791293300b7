"""Scorer of tool calls: parseable, the right tool, the expected values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError, shortened
from ..cases import Case
from .answer_text import json_values
from .base import Score, Scorer, case_error, read_options

OPTIONS = {"name": "text", "parameters": "object", "exact": "flag"}
SHAPE = '{"tool_calls": [{"name", "parameters"}]}'

# (name, parameters)
Call = tuple[str, dict[str, Any]]


def tool_call(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers which call the expected tools with the expected values.

    The expected calls are the options' ``name`` and ``parameters``, or the case's ``expect``, in the shape of an
    answer; an empty list of calls expects none. Further parameters are allowed unless ``exact``; further calls are
    not. Metrics: ``parsed``, ``right_tool``, ``right_values``.
    """
    given = read_options(options, where, "tool_call", OPTIONS, main="name")
    fixed = [(given["name"], dict(given.get("parameters", {})))] if "name" in given else None
    if fixed is None and "parameters" in given:
        raise UserError(f"{where}: tool_call has parameters, and needs the name of their tool as well")
    exact = given.get("exact", False)

    def score(case: Case, answer: str) -> Score:
        expected = fixed if fixed is not None else _expected(case, where)
        found = next((calls for value in json_values(answer) if (calls := read_calls(value)) is not None), None)
        return _judge(expected, found, exact)

    return score


def _expected(case: Case, where: str) -> list[Call]:
    value = case.expect
    if isinstance(value, str):
        value = next(json_values(value), {"name": value})
    calls = read_calls(value)
    if calls is None:
        raise case_error(where, case, f"has {shortened(value)} in expect, and tool_call needs {SHAPE} there")
    return calls


def read_calls(value: Any) -> list[Call] | None:
    """Return the calls in a JSON value, ``None`` if it has not the shape of calls.

    Shapes: ``{"tool_calls": [...]}``, a list of calls, one call; a call is ``{"name", "parameters"}``, or as OpenAI
    writes it, ``{"name", "arguments"}`` or ``{"type": "function", "function": {...}}``, arguments as text too.
    """
    if isinstance(value, Mapping) and "tool_calls" in value:
        value = value["tool_calls"]
        if not isinstance(value, list):
            return None
    elif isinstance(value, Mapping):
        value = [value]
    elif not isinstance(value, list) or not value:
        return None
    calls = [_read_call(call) for call in value]
    return None if None in calls else [call for call in calls if call is not None]


def _read_call(call: Any) -> Call | None:
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        call = call["function"]
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        return None
    parameters = call.get("parameters", call.get("arguments", {}))
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError):
            return None
    return (call["name"], dict(parameters)) if isinstance(parameters, Mapping) else None


def _judge(expected: list[Call], found: list[Call] | None, exact: bool) -> Score:
    metrics = {"parsed": float(found is not None), "right_tool": 0.0, "right_values": 0.0}
    if not expected and not found:
        return Score(True, "", {"parsed": 1.0, "right_tool": 1.0, "right_values": 1.0})
    if found is None:
        return Score(False, f"the answer holds no tool call {SHAPE}", metrics)
    if sorted(name for name, _ in found) != sorted(name for name, _ in expected):
        names = [", ".join(name for name, _ in calls) or "no tool" for calls in (found, expected)]
        return Score(False, f"the answer calls {shortened(names[0])}, and {names[1]} is expected", metrics)
    metrics["right_tool"] = 1.0
    left, wrong = list(found), ""
    for name, wanted in expected:
        # The call of that name that fits, so that calls may come in any order.
        faults = [(_fault(wanted, call[1], exact), call) for call in left if call[0] == name]
        fault, call = next(((f, c) for f, c in faults if f is None), faults[0])
        left.remove(call)
        wrong = wrong or (f"{name}: {fault}" if fault else "")
    return Score(not wrong, wrong, {**metrics, "right_values": float(not wrong)})


def _fault(wanted: Mapping[str, Any], given: Mapping[str, Any], exact: bool) -> str | None:
    for key, value in wanted.items():
        if key not in given:
            return f"the parameter {shortened(key)} is missing"
        if not _equal(value, given[key]):
            return f"the parameter {shortened(key)} is {shortened(given[key])}, and {shortened(value)} is expected"
    further = [key for key in given if key not in wanted]
    return f"the parameter {shortened(further[0])} is not expected" if exact and further else None


def _equal(one: Any, other: Any) -> bool:
    """Return True for equal JSON values: 1 and 1.0 are equal, 1 and true are not; white space around text is not."""
    if isinstance(one, str) and isinstance(other, str):
        return one.strip() == other.strip()
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    return bool(one == other)
