"""Suite runner: ask a target every case of a suite, check each answer, and write the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError
from ..files import write_json
from .answers import ask
from .cases import Case, read_cases, with_systems
from .eisv_cases import parse_eisv_case
from .samples import write_samples
from .scorers import make_scorer
from .scorers.base import Score, Scorer
from .scoring import score_replies
from .suite import Generation, Suite
from .suite_report import suite_report
from .target import Target

REPORT = "report_{}.json"
SAMPLES = "samples_{}.jsonl"
ANSWERS = "answers_{}.jsonl"


@dataclass
class Evaluation:
    """One suite with its cases and scorers, ready to run."""

    suite: Suite
    cases: list[Case]
    scorers: list[Scorer]


def prepare(suite: Suite, cases_file: str | Path | None = None) -> Evaluation:
    """Read a suite's cases and make its scorers, so that every error comes before a model is loaded.

    Args:
        cases_file: replaces the suite's own cases.

    Raises:
        UserError: the suite has no cases of its own and none are given, a broken case, or a wrong option of a check.
    """
    file = cases_file or suite.cases
    if file is None:
        raise UserError(f"{suite.name}: this suite has no cases of its own; give them with --cases FILE.jsonl")
    cases = read_cases(file, parse_eisv_case if suite.reader == "eisv" else None)
    scorers = [make_scorer(check, suite.profile, suite.file.parent) for check in suite.checks]
    return Evaluation(suite, with_systems(cases, suite.system), scorers)


def run_suite(
    evaluation: Evaluation,
    target: Target,
    *,
    generation: Generation | None = None,
    out: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
    stop: Callable[[Sequence[Score]], bool] = lambda scores: False,
) -> dict[str, Any]:
    """Ask a target every case, check the answers, and return the report.

    Args:
        generation: replaces the suite's own settings.
        out: directory for the report, the samples and, until they are written, the answers; None writes nothing.
        stop: given the scores so far after each group of answers; True ends the asking.

    Raises:
        UserError: the target cannot answer at all, or a file cannot be written.
    """
    suite, cases = evaluation.suite, evaluation.cases
    settings = generation or suite.generation
    saved = None if out is None else out / ANSWERS.format(suite.name)
    scores: list[Score] = []

    def score(replies: Sequence[Reply]) -> bool:
        new = slice(len(scores), len(replies))
        scores.extend(score_replies(evaluation.scorers, cases[new], replies[new]))
        return stop(scores)

    replies = ask(target, cases, settings, saved, advance, score)
    score(replies)
    report = suite_report(suite, target, cases, replies, scores, evaluation.scorers, settings)
    if out is not None:
        write_samples(out / SAMPLES.format(suite.name), suite, cases, replies, scores, settings)
        write_json(out / REPORT.format(suite.name), report)
    return report
