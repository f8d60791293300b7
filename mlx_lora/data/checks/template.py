"""Checks against the base model's chat template and tokenizer: refused rows, truncation, end-of-turn tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ..answer_spans import Answers
from ..batch_encoding import common_length
from ..chat_template import render
from ..dataset import Example
from ..tokenize import learned_tokens, tokenize, truncate
from .base import Hit
from .conflicts import brief
from .dataset_table import Item, Table

# Rows of each kind of conversation (its sequence of roles) that are encoded where not all are.
SAMPLED = 16
REPORT_EVERY = 200


@dataclass
class Encoded:
    """A row as the model sees it.

    Attributes:
        tokens: its length.
        truncated: the texts that are truncated to fit ``max_seq_length``, and how many tokens they have.
        too_long: why the row's answers do not fit.
        refused: why the row cannot be encoded.
        ends: every answer's last supervised token is a special one, but for those with ``open_end``.
        differs: the difference between the training text and the text that the model is served with.
        dropped: the parts of the row that the template does not print.
    """

    item: Item
    tokens: int = 0
    truncated: str = ""
    truncated_tokens: int = 0
    too_long: str | None = None
    refused: str | None = None
    ends: bool = True
    differs: str | None = None
    dropped: str = ""


def encoded(table: Table) -> list[Encoded]:
    """Return every row with an answer, encoded once for each table; some of each kind if the table is ``sampled``."""
    if "encoded" not in table.shared:
        items = [item for item in table.items if not item.row.refusal]
        if table.sampled:
            items = _sample([item for item in items if item.trained])
        ends = special_ids(table.tokenizer)
        facts = []
        for done, item in enumerate(items, 1):
            facts.append(_encode(table, item, ends))
            if done % REPORT_EVERY == 0:
                table.advance(REPORT_EVERY)
        table.shared["encoded"] = facts
    return table.shared["encoded"]


def _sample(items: list[Item]) -> list[Item]:
    """Return the first rows of each sequence of roles."""
    seen = Counter[tuple[str, ...]]()
    chosen = []
    for item in items:
        roles = tuple(message["role"] for message in item.row.messages)
        seen[roles] += 1
        if seen[roles] <= SAMPLED:
            chosen.append(item)
    return chosen


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the tokens that can end a turn: all special ones, and the tokenizer's end tokens."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    facts = getattr(tokenizer, "base_facts", None)
    ends = {tokenizer.eos_token_id, *(facts.ends if facts else ())}
    return {number for number in added | set(tokenizer.all_special_ids) | ends if number is not None}


def _encode(table: Table, item: Item, ends: set[int]) -> Encoded:
    fact, tokenizer, example = Encoded(item), table.tokenizer, item.row.example()
    try:
        tokens = tokenize(tokenizer, example)
        learned = learned_tokens(tokens)
    except UserError as error:
        fact.refused = str(error)
        return fact
    fact.tokens = len(tokens.ids)
    try:
        kept = truncate(tokens, table.max_seq_length)
        fact.truncated_tokens, fact.truncated = int((~kept).sum()), _removed_text(tokenizer, tokens.ids, kept)
    except UserError as error:
        fact.too_long = str(error)
    last = {int(owner): int(number) for owner, number in zip(tokens.owner[learned], tokens.ids[learned], strict=True)}
    spans = tokens.answers.spans
    fact.ends = all(number in ends or spans[owner].open_from is not None for owner, number in last.items())
    fact.differs = _serving_difference(tokenizer, example, tokens.answers)
    fact.dropped = ", ".join(f"the {what} of message {message + 1}" for what, message in tokens.answers.dropped)
    return fact


def _removed_text(tokenizer: Any, ids: np.ndarray, kept: np.ndarray) -> str:
    """Return the texts that truncation removes."""
    places = np.flatnonzero(~kept)
    stretches = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []
    return " … ".join(tokenizer.decode(ids[stretch].tolist()) for stretch in stretches)


def _serving_difference(tokenizer: Any, example: Example, answers: Answers) -> str | None:
    """Return the difference between training and serving in the text before the first answer that has one, or None."""
    learned = [span for span in answers.spans if span.weight > 0]
    for number, span in enumerate(learned, 1):
        before = example.messages[: span.message]
        which = f"answer {number} of {len(learned)}: " if len(learned) > 1 else ""
        try:
            serving = render(tokenizer, before, generate=True, tools=example.tools, **example.template_kwargs)
        except UserError as error:
            if any(message["role"] in ("user", "tool") for message in before):
                return f"{which}the model cannot be served with what comes before it ({error})"
            continue  # without a prompt nothing is served
        if said := _difference(tokenizer, serving, answers.text):
            return which + said
    return None


def _difference(tokenizer: Any, serving: str, training: str) -> str | None:
    """Return how the training text differs after the served prefix, in characters or in tokens, or None."""
    if not training.startswith(serving):
        same = common_length(serving, training)
        return (
            f"served with …{brief(serving[same : same + 40])} where training has …{brief(training[same : same + 40])}"
        )
    end = serving[-20:] + training[len(serving) : len(serving) + 20]
    start = len(serving) - len(serving[-20:])
    # A token that crosses the start of the answer never occurs when the model is served.
    for begin, stop in tokenizer.backend_tokenizer.encode(end, add_special_tokens=False).offsets:
        if begin + start < len(serving) < stop + start:
            return f"one token spans the end of the prompt and the answer's beginning: {brief(end[begin:stop])}"
    return None


def refused(table: Table) -> Iterator[Hit]:
    """Yield rows whose turns or roles the template refuses."""
    for fact in encoded(table):
        if fact.refused:
            yield Hit(f"{fact.item.where}: {fact.refused}", [fact.item])


def answer_too_long(table: Table) -> Iterator[Hit]:
    """Yield rows whose answers alone do not fit; training refuses them."""
    for fact in encoded(table):
        if fact.too_long:
            yield Hit(f"{fact.item.where}: {fact.too_long}", [fact.item])


def too_long(table: Table) -> Iterator[Hit]:
    """Yield rows whose prompts are truncated in the middle."""
    for fact in encoded(table):
        if fact.truncated_tokens:
            said = f"{fact.tokens} tokens; the prompt loses {fact.truncated_tokens} of them: {brief(fact.truncated)}"
            yield Hit(f"{fact.item.where}: {said}")


def no_end_of_turn(table: Table) -> Iterator[Hit]:
    """Yield rows with answers without an end-of-turn token: a model trained on them never stops."""
    for fact in encoded(table):
        if not fact.refused and not fact.ends:
            yield Hit(f"{fact.item.where}: an answer ends without an end-of-turn token that is learned")


def serving_differs(table: Table) -> Iterator[Hit]:
    """Yield rows in which the text before an answer differs from the text that the model is served with."""
    for fact in encoded(table):
        if fact.differs:
            yield Hit(f"{fact.item.where}: {fact.differs}")


def dropped_text(table: Table) -> Iterator[Hit]:
    """Yield rows that the template does not print in full, e.g. without the thoughts of earlier answers."""
    for fact in encoded(table):
        if fact.dropped:
            yield Hit(f"{fact.item.where}: the template leaves out {fact.dropped}")
