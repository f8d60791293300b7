"""Checks of a suite on existing documents: what a check is worth shows on real files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..user_files import read_text
from .cases import Case
from .scorers import make_scorer
from .scoring import failures
from .suite import load_suite


def check_documents(files: Sequence[Path], suite: str, profile: str | None = None) -> dict[str, Any]:
    """Run the checks of a suite over documents, each as if it were an answer.

    Args:
        profile: replaces the suite's own.

    Returns:
        "suite", "profile", "files" and "passed" (counts), "results" [{"file", "passed", "reasons"}].

    Raises:
        UserError: an unknown suite or profile, a file that cannot be read, or a check that needs a case's reference.
    """
    found = load_suite(suite)
    scorers = [make_scorer(check, profile, found.file.parent, found.profile) for check in found.checks]
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            text = read_text(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: this document cannot be read ({first_line(error)}); check the path") from None
        case = Case(str(file), [{"role": "user", "content": ""}])
        reasons = failures(scorer(case, text) for scorer in scorers)
        results.append({"file": str(file), "passed": not reasons, "reasons": reasons})
    passed = sum(result["passed"] for result in results)
    return {
        "suite": found.name,
        "profile": profile or found.profile,
        "files": len(files),
        "passed": passed,
        "results": results,
    }
