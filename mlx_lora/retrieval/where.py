"""Conditions on metadata, as ``NAME=VALUE`` on a command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..errors import UserError, shortened


def parse_where(conditions: Iterable[str]) -> dict[str, Any] | None:
    """Return the conditions by name, a value read as JSON or as text; a name given twice has any of both values.

    Raises:
        UserError: one has no ``=``.
    """
    found: dict[str, Any] = {}
    for condition in conditions:
        name, sign, value = condition.partition("=")
        if not sign or not name.strip():
            raise UserError(f"--where {shortened(condition)}: write NAME=VALUE, such as layer=layer2")
        # Metadata may hold a number as text as well.
        found.setdefault(name.strip(), []).extend(dict.fromkeys([value, _scalar(value)]))
    return found or None


def _scalar(value: str) -> Any:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, (bool, int, float)) and parsed == parsed and abs(parsed) < 2**63 else value
