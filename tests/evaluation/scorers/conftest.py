from __future__ import annotations

from pathlib import Path

import pytest

from mlx_lora.evaluation.cases import Case
from mlx_lora.evaluation.scorers import CheckSpec, Score, make_scorer


@pytest.fixture
def judge():
    """Judge one answer: ``judge({"contains": "x"}, answer)``; further keywords are the case's."""

    def run(check, answer: str, profile=None, folder=Path(), prompt: str = "question", **fields) -> Score:
        (name, options), *_ = check.items()
        scorer = make_scorer(CheckSpec(name, options, "suite.yaml:7"), profile, folder)
        fields = {"expect": None, "tags": [], "meta": {}, **fields}
        score = scorer(Case("c1", [{"role": "user", "content": prompt}], **fields), answer)
        # A failure says why, in one sentence of one line; a success says nothing.
        assert bool(score.reason) is not score.passed
        assert "\n" not in score.reason
        return score

    return run
