"""Checks of conflicting rows: contradictory answers to one prompt, and one answer to many prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from .base import Hit
from .dataset_table import Item, Table

# N different prompts with one answer teach the answer, not the question.
MANY_PROMPTS = 4


def one_answer(table: Table) -> Iterator[Hit]:
    """Yield one hit for each answer that occurs under many different prompts."""
    prompts: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in table.trained:
        prompts[item.meaning].setdefault(item.prompt, item)
    for items in sorted(prompts.values(), key=lambda items: -len(items)):
        if len(items) >= MANY_PROMPTS:
            first = next(iter(items.values()))
            yield Hit(f"{first.where}: {len(items)} different prompts have the answer {brief(first.answer)}")


def contradictions(table: Table) -> Iterator[Hit]:
    """Yield one hit for each prompt with contradictory positive and negative answers; ``--fix`` drops the negative."""
    for items in _of_negatives(table):
        positives = _answers(item for item in items if not item.negative)
        negatives = [item for item in items if item.negative and item.meaning not in positives]
        if negatives and positives:
            said = f"{negatives[0].where}, a negative example, answers the prompt of"
            yield Hit(f"{said} {next(iter(positives.values())).where} otherwise", negatives)


def negative_equals_positive(table: Table) -> Iterator[Hit]:
    """Yield negative rows with the answer of a positive row of the same prompt: one of the two is marked wrongly."""
    for items in _of_negatives(table):
        positives = _answers(item for item in items if not item.negative)
        for item in items:
            if item.negative and (positive := positives.get(item.meaning)):
                said = f"{item.where}, a negative example, has the prompt and the answer of {positive.where}"
                yield Hit(f"{said}: {brief(item.answer)}", [item])


def several_answers(table: Table) -> Iterator[Hit]:
    """Yield one hit for each prompt with different answers; negatives against positives are findings of their own."""
    for items in _by_prompt(table).values():
        positives = [item for item in items if not item.negative]
        answers = _answers(positives or items)
        if len(answers) > 1:
            first, second, *_ = answers.values()
            yield Hit(f"{first.where}: its prompt has {len(answers)} different answers, another in {second.where}")


def _by_prompt(table: Table) -> dict[str, list[Item]]:
    """Return the training rows by prompt; bare texts have none."""
    prompts: dict[str, list[Item]] = defaultdict(list)
    for item in table.trained:
        if item.question.strip():
            prompts[item.prompt].append(item)
    return prompts


def _of_negatives(table: Table) -> list[list[Item]]:
    """Return the rows of each prompt that has a negative example."""
    return [items for items in _by_prompt(table).values() if any(item.negative for item in items)]


def _answers(items: Iterable[Item]) -> dict[str, Item]:
    """Return the first row of each answer."""
    answers: dict[str, Item] = {}
    for item in items:
        answers.setdefault(item.meaning, item)
    return answers


def brief(text: str) -> str:
    """Return the beginning of a text, on one line, in quotes."""
    line = " ".join(text[:240].split())
    return repr(line if len(line) <= 60 else line[:59] + "…")
