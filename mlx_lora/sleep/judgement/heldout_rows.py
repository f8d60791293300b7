"""Held-out rows of the nights: what is asked of them, and the score of each answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.dataset import Example, read_split, split_file
from ...engines.reply import Reply
from ...errors import UserError
from ...evaluation.cases import Case, example_case
from ...evaluation.heldout import HeldoutPart, clusters_of
from ...evaluation.measurement import Probe
from ...evaluation.scorers import Score
from ...evaluation.scorers.base import prompt_text
from ...evaluation.scorers.degeneration import DEFAULT
from ...evaluation.suite import Generation
from ...sources.salience.degeneration import made_of_stock_phrases
from ...sources.salience.filters import CHECKS, Filters, answer_fault
from ..checks import RowCheck, main_metric

# Rows of each night that are asked, evenly spaced; the loss is measured on all of them.
ASKED = 24
LEAST_TOKENS, MOST_TOKENS = 32, 384
# Signs that are none where the stored answer has them too: of such rows they are the form.
FORMS = ("short", "echo", "roles", "think")
_FILTERS = Filters(skip=frozenset(CHECKS).difference(DEFAULT))


@dataclass
class HeldoutNight:
    """Held-out rows of one night.

    Attributes:
        rows: a name of each row, the same wherever it occurs.
        every: the case of each row that can be asked, by its number.
        asked: numbers of the rows that are asked.
    """

    name: str
    part: HeldoutPart
    rows: list[str]
    every: dict[int, Case]
    asked: list[int]

    @property
    def cases(self) -> list[Case]:
        """Cases of the asked rows."""
        return [self.every[number] for number in self.asked]

    @property
    def probe(self) -> Probe:
        """Questions; room for the longest stored answer in any language of letters."""
        longest = max(len(str(case.expect or "")) for case in self.cases)
        tokens = min(MOST_TOKENS, max(LEAST_TOKENS, longest // 2 + 16))
        return Probe(f"night {self.name}", self.cases, Generation(tokens))


@dataclass
class ScoredAnswer:
    """Answer to a held-out row.

    Attributes:
        collapsed: it shows a sign of collapse.
        score: of the row's check; None without one.
    """

    text: str
    collapsed: bool
    score: Score | None

    @property
    def good(self) -> bool:
        """True if it has not collapsed and passes the row's check."""
        return not self.collapsed and (self.score is None or self.score.passed)


def read_nights(parts: Mapping[str, Path], most: int = ASKED) -> list[HeldoutNight]:
    """Read the validation split of each night's dataset; a night without a held-out row is left out.

    Args:
        most: rows of each night that are asked.

    Raises:
        UserError: there is no such dataset, or a row of it cannot be read.
    """
    found = []
    for name, directory in parts.items():
        # A row without weight is not learned, and has no loss.
        examples = [example for example in read_split(directory, "valid") if example.weight > 0]
        if examples:
            part = HeldoutPart(name, split_file(directory, "valid"), examples, clusters_of(examples))
            found.append(_night(name, part, most))
    return found


def _night(name: str, part: HeldoutPart, most: int) -> HeldoutNight:
    cases: dict[int, Case] = {}
    for number, example in enumerate(part.examples):
        try:
            cases[number] = example_case(example, str(number), f"{part.file}, example {number + 1}")
        except UserError:
            continue  # Nothing is before its answer: it has a loss, and cannot be asked.
    numbers = list(cases)
    asked = [numbers[i * len(numbers) // most] for i in range(most)] if len(numbers) > most else numbers
    rows = [row_name(example) for example in part.examples]
    return HeldoutNight(name, part, rows, cases, asked)


def row_name(example: Example) -> str:
    """Return the id of a row, or a hash of its messages."""
    known = example.meta.get("sleep_id")
    if isinstance(known, str):
        return known
    return hashlib.sha256(json.dumps(example.messages, sort_keys=True).encode()).hexdigest()[:16]


def score_answers(
    night: HeldoutNight, replies: Sequence[Reply], checks: Mapping[str, RowCheck], start: int = 0
) -> list[ScoredAnswer | None]:
    """Return the score of each reply from ``start`` on, in the order of the asked rows; None: it was not answered."""
    found: list[ScoredAnswer | None] = []
    for number, case, reply in list(zip(night.asked, night.cases, replies, strict=False))[start:]:
        if reply.text is None:
            found.append(None)
            continue
        row = night.part.examples[number]
        check = checks.get(str(row.meta.get("sleep_store")))
        score = None if check is None else check(row, reply.text)
        found.append(ScoredAnswer(reply.text, _collapsed(case, reply.text), score))
    return found


def _collapsed(case: Case, answer: str) -> bool:
    prompt = prompt_text(case)
    fault = answer_fault(answer, _FILTERS, prompt)
    return fault is not None and not (fault in FORMS and answer_fault(str(case.expect), _FILTERS, prompt) == fault)


def collapsed_experiences(night: HeldoutNight) -> tuple[int, int]:
    """Return how many stored answers of an agent's experiences have collapsed, and of how many.

    An agent that has collapsed stores its collapsed answers. Only experiences are looked at: rows that people wrote may
    be all questions.
    """
    answers = [
        ScoredAnswer(str(case.expect), _collapsed(case, str(case.expect)), None)
        for number, case in night.every.items()
        if "experience_id" in night.part.examples[number].meta
    ]
    mark_stock_phrases(answers)
    return sum(answer.collapsed for answer in answers), len(answers)


def mark_stock_phrases(answers: Sequence[ScoredAnswer]) -> None:
    """Mark the answers that are made of stock phrases, which only several answers show, as collapsed."""
    marked, _ = made_of_stock_phrases([answer.text for answer in answers])
    for answer, stock in zip(answers, marked, strict=True):
        answer.collapsed = answer.collapsed or stock


def mean_score(answers: Sequence[ScoredAnswer | None]) -> float | None:
    """Return the mean main metric of the answers that were checked; None without one."""
    values = [main_metric(answer.score) for answer in answers if answer is not None and answer.score is not None]
    return sum(values) / len(values) if values else None
