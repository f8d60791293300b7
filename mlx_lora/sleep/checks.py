"""Row checks: checks that the answer to a store's prompt must pass, from its source or from a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ..data.dataset import Example
from ..evaluation.cases import example_case
from ..evaluation.scorers import CheckSpec, Score, Scorer, make_scorer
from ..evaluation.scorers.claims import STAGES
from ..evaluation.scoring import score_text
from ..evaluation.suite import load_suite
from .config import StoreConfig

# (row, answer) -> score
RowCheck = Callable[[Example, str], Score]
# Own checks of the sources that can check an answer; the others need a suite (`check:`).
OWN_CHECKS = {"eisv": ("expression_coherence", {"above": 0.93}), "claims": ("claims", {})}


def row_checks(stores: Sequence[StoreConfig]) -> dict[str, RowCheck]:
    """Return the check of each store that has one, by the store's name.

    Raises:
        UserError: there is no such suite, or its file is wrong; see ``load_suite`` and ``make_scorer``.
    """
    scorers = {store.name: _scorers(store) for store in stores}
    return {name: partial(_check, name, found) for name, found in scorers.items() if found}


def main_metric(score: Score) -> float:
    """Return the main metric of a row's score, from 0 to 1: coherence, the mean of the stages, else 1 for passed."""
    if "coherence" in score.metrics:
        return score.metrics["coherence"]
    if set(STAGES) <= set(score.metrics):
        return sum(score.metrics[stage] for stage in STAGES) / len(STAGES)
    return float(score.passed)


def _scorers(store: StoreConfig) -> list[Scorer]:
    if store.check is not None:
        suite = load_suite(store.check)
        return [make_scorer(check, None, suite.file.parent, suite.profile) for check in suite.checks]
    if store.kind in OWN_CHECKS:
        name, options = OWN_CHECKS[store.kind]
        return [make_scorer(CheckSpec(name, options, f"store {store.name}"), None, Path())]
    return []


def _check(store: str, scorers: Sequence[Scorer], row: Example, answer: str) -> Score:
    return score_text(scorers, example_case(row, str(row.meta.get("sleep_id", "")), f"store {store}"), answer)
