"""Checks of the simulated stores' answers, against the stored answer of the same prompt."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from night_stores import SAYINGS


def saying(case, answer):
    """True if the answer has the saying of the stored one, word for word."""
    expected = [text for text in SAYINGS.values() if text in case.expect]
    return expected[0] in answer, f"it does not say: {expected[0]}"


def code(case, answer):
    """True if the answer is the same Python as the accepted one."""
    try:
        same = ast.dump(ast.parse(answer)) == ast.dump(ast.parse(case.expect))
    except (SyntaxError, ValueError) as error:
        return False, f"it is not Python: {error}"
    return same, "it is not the code that the guard accepts"
