"""Suite runner: ask a target every case of a suite, check each answer, and write the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..errors import UserError
from ..files import write_json
from ..runs.telemetry import record_validation
from .answers import ask
from .cases import Case, read_cases, with_systems
from .eisv_cases import parse_eisv_case
from .samples import write_samples
from .scorers import METRICS, make_scorer
from .scorers.base import Score, Scorer
from .scoring import score_replies
from .suite import Generation, Suite
from .suite_report import PASS_RATE, suite_report
from .targets.target import Target

REPORT = "report_{}.json"
SAMPLES = "samples_{}.jsonl"
ANSWERS = "answers_{}.jsonl"


@dataclass
class Evaluation:
    """One suite with its cases and scorers, ready to run.

    Attributes:
        about: further fields of the report.
    """

    suite: Suite
    cases: list[Case]
    scorers: list[Scorer]
    about: dict[str, Any] = field(default_factory=dict)


def prepare(suite: Suite, cases_file: str | Path | None = None) -> Evaluation:
    """Read a suite's cases and make its scorers, so that every error comes before a model is loaded.

    Args:
        cases_file: replaces the suite's own cases.

    Raises:
        UserError: the suite has no cases of its own and none are given, a broken case, a wrong option of a check, or a
            threshold on a metric that none of the checks measures.
    """
    file = cases_file or suite.cases
    if file is None:
        raise UserError(f"{suite.name}: this suite has no cases of its own; give them with --cases FILE.jsonl")
    cases = read_cases(file, parse_eisv_case if suite.reader == "eisv" else None)
    scorers = [make_scorer(check, None, suite.file.parent, suite.profile) for check in suite.checks]
    _check_metrics(suite)
    return Evaluation(suite, with_systems(cases, suite.system), scorers, {"cases": str(file)})


def prepare_suites(suites: Sequence[Suite], cases_file: Path | None, generation: Mapping[str, Any]) -> list[Evaluation]:
    """Prepare suites, with the user's own cases and settings in place of theirs; see :func:`prepare`.

    Args:
        cases_file: replaces the cases of one suite; of several, of those that have none of their own.
        generation: ``max_tokens``, ``temperature`` and ``seed``; None is the suite's own.

    Raises:
        UserError: the cases would replace none.
    """
    several = len(suites) > 1
    if cases_file is not None and several and all(suite.cases for suite in suites):
        raise UserError(
            f"--cases {cases_file}: each of these suites has cases of its own; name one suite to replace them"
        )
    given = {key: value for key, value in generation.items() if value is not None}
    found = []
    for suite in suites:
        suite = replace(suite, generation=replace(suite.generation, **given))
        found.append(prepare(suite, None if several and suite.cases is not None else cases_file))
    return found


def _check_metrics(suite: Suite) -> None:
    names = [check.name for check in suite.checks]
    measured = {PASS_RATE}.union(*(METRICS.get(name, set()) for name in names))
    for limit in suite.limits:
        if limit.metric not in measured and "python" not in names:
            raise UserError(
                f"{limit.where}: the threshold is on {limit.metric}, which none of the checks measures; they measure "
                f"{', '.join(sorted(measured))}"
            )


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
        out: directory for the answers as they arrive, the samples and the report; None writes nothing.
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
    report = suite_report(suite, target, cases, replies, scores, evaluation.scorers, settings) | evaluation.about
    if any(check.name == "claims" for check in suite.checks):
        record_validation(target.name, report, round(sum(score.metrics.get("claims", 0.0) for score in scores)))
    if out is not None:
        write_samples(out / SAMPLES.format(suite.name), cases, replies, scores, settings)
        write_json(out / REPORT.format(suite.name), report)
    return report
