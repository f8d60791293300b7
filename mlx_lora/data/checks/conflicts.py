"""Prompts and answers that do not tell the model one thing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .finding import Hit
from .table import Item, Table

# So many different prompts with one answer teach the answer, not the question.
MANY_PROMPTS = 4


def _by_prompt(table: Table) -> dict[str, dict[str, Item]]:
    """prompt -> answer -> the first row with both, of what is trained on."""
    prompts: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in table.trained:
        prompts[item.prompt].setdefault(item.pair[1], item)
    return prompts


def one_answer(table: Table) -> Iterator[Hit]:
    """One hit an answer that stands under many different prompts."""
    prompts: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in table.trained:
        prompts[item.pair[1]].setdefault(item.prompt, item)
    for answer, items in sorted(prompts.items(), key=lambda pair: -len(pair[1])):
        if len(items) >= MANY_PROMPTS:
            first = next(iter(items.values()))
            yield Hit(f"{first.where}: {len(items)} different prompts have the answer {brief(answer)}")


def contradictions(table: Table) -> Iterator[Hit]:
    """One hit a prompt that a negative and a positive example answer differently; ``--fix`` drops the negative."""
    for negative, positive, all_negatives in _contradicted(table).values():
        said = f"{negative.where}, a negative example, answers the prompt of {positive.where} otherwise"
        yield Hit(said, all_negatives)


def _contradicted(table: Table) -> dict[str, tuple[Item, Item, list[Item]]]:
    """prompt -> (a negative row, a positive one with another answer, all negative rows of that prompt)."""
    rows: dict[str, list[Item]] = defaultdict(list)
    for item in table.trained:
        rows[item.prompt].append(item)
    found = {}
    for prompt, items in rows.items():
        negatives = [item for item in items if item.negative]
        positives: dict[str, Item] = {}
        for item in items:
            if not item.negative:
                positives.setdefault(item.pair[1], item)
        for item in negatives:
            other = next((p for answer, p in positives.items() if answer != item.pair[1]), None)
            if other is not None:
                found[prompt] = (item, other, negatives)
                break
    return found


def several_answers(table: Table) -> Iterator[Hit]:
    """One hit a prompt with different answers, but for those of negatives against positives."""
    contradicted = _contradicted(table)
    for prompt, answers in _by_prompt(table).items():
        if len(answers) > 1 and prompt not in contradicted:
            first, second, *_ = answers.values()
            yield Hit(f"{first.where}: its prompt has {len(answers)} different answers, another in {second.where}")


def brief(text: str, length: int = 60) -> str:
    """The beginning of a text, on one line, in quotes."""
    line = " ".join(text[: 4 * length].split())
    return repr(line if len(line) <= length else line[: length - 1] + "…")
