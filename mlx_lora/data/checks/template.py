"""What the base model's own chat template and tokenizer make of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ..chat_template import render
from ..encode import EncodedExample, encode_example
from ..example import Example
from .conflicts import brief
from .finding import Hit
from .table import Item, Table

# Rows of one kind of conversation (its sequence of roles) that are encoded where not all are.
SAMPLED = 16
REPORT_EVERY = 200


@dataclass
class Encoded:
    """A row as the model sees it.

    Attributes:
        tokens: its length.
        prompt: how many tokens come before the first answer.
        cut: the text that is left out to fit ``max_seq_length``, and how many tokens it has.
        refused: why the template refuses the row.
        ends: every answer's last supervised token is a special one.
        differs: how the text that is trained on differs from the one the model is served with.
    """

    item: Item
    tokens: int = 0
    prompt: int = 0
    cut: str = ""
    cut_tokens: int = 0
    refused: str | None = None
    ends: bool = True
    differs: str | None = None


def encoded(table: Table) -> list[Encoded]:
    """Every row with an answer, encoded once a table; some of each kind if the table is ``sampled``."""
    if "encoded" not in table.shared:
        items = [item for item in table.items if item.answer.strip()]
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
    """The first rows of each sequence of roles."""
    seen = Counter[tuple[str, ...]]()
    chosen = []
    for item in items:
        roles = tuple(message["role"] for message in item.row.messages)
        seen[roles] += 1
        if seen[roles] <= SAMPLED:
            chosen.append(item)
    return chosen


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that can end a turn: all special ones, and whatever the tokenizer calls the end."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    # mlx-lm's wrapper of a tokenizer knows several ends.
    ends = getattr(tokenizer, "eos_token_ids", None)
    ends = set(ends) if isinstance(ends, (set, list, tuple)) else {tokenizer.eos_token_id}
    return {number for number in added | set(tokenizer.all_special_ids) | ends if number is not None}


class _Once:
    """A tokenizer that renders each beginning of one conversation only once: that is most of the work."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._rendered: dict[tuple[int, bool], str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        key = len(messages), options["add_generation_prompt"]
        if key not in self._rendered:
            self._rendered[key] = self._tokenizer.apply_chat_template(messages, **options)
        return self._rendered[key]


def _encode(table: Table, item: Item, ends: set[int]) -> Encoded:
    fact, tokenizer = Encoded(item), _Once(table.tokenizer)
    messages = item.row.messages
    try:
        # Uncut: what is longer is measured here.
        example = encode_example(tokenizer, Example(messages), 10**9)
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        serving = render(tokenizer, messages[:last], generate=True)
        training = render(tokenizer, messages[: last + 1])
    except UserError as error:
        fact.refused = str(error)
        return fact
    fact.tokens, fact.prompt = len(example), int(example.supervised.argmax())
    fact.cut_tokens = max(0, fact.tokens - table.max_seq_length)
    if fact.cut_tokens:
        fact.cut = _cut_text(table, example, fact)
    stops = np.flatnonzero(example.supervised & ~np.append(example.supervised[1:], False))
    fact.ends = all(int(example.ids[i]) in ends for i in stops)
    fact.differs = _difference(table.tokenizer, serving, training)
    return fact


def _cut_text(table: Table, example: EncodedExample, fact: Encoded) -> str:
    """The middle of the prompt, as :func:`~mlx_lora.data.encode.encode_example` takes it out."""
    keep = fact.prompt - fact.cut_tokens
    if keep < 2:
        return ""
    return table.tokenizer.decode(example.ids[(keep + 1) // 2 : fact.prompt - keep // 2].tolist())


def _difference(tokenizer: Any, serving: str, training: str) -> str | None:
    """How the training text goes on otherwise than after the text the model is served with, in letters or in tokens."""
    if not training.startswith(serving):
        same = next((i for i, (a, b) in enumerate(zip(serving, training, strict=False)) if a != b), len(training))
        return (
            f"served with …{brief(serving[same : same + 40])} where training has …{brief(training[same : same + 40])}"
        )
    end = serving[-20:] + training[len(serving) : len(serving) + 20]
    start = len(serving) - len(serving[-20:])
    # Tokens that bridge the place where the answer begins are never seen together when it is served.
    for begin, stop in tokenizer.backend_tokenizer.encode(end, add_special_tokens=False).offsets:
        if begin + start < len(serving) < stop + start:
            return f"one token spans the end of the prompt and the answer's beginning: {brief(end[begin:stop])}"
    return None


def refused(table: Table) -> Iterator[Hit]:
    """Rows whose turns or roles the template refuses."""
    for fact in encoded(table):
        if fact.refused:
            yield Hit(f"{fact.item.where}: {fact.refused}", [fact.item])


def answer_too_long(table: Table) -> Iterator[Hit]:
    """Rows whose answer alone does not fit; training refuses them."""
    for fact in encoded(table):
        if fact.cut_tokens and fact.prompt - fact.cut_tokens < 2:
            answer = fact.tokens - fact.prompt
            said = f"the answer takes {answer} tokens of {fact.tokens}, and max_seq_length is {table.max_seq_length}"
            yield Hit(f"{fact.item.where}: {said}", [fact.item])


def too_long(table: Table) -> Iterator[Hit]:
    """Rows whose prompt loses its middle."""
    for fact in encoded(table):
        if fact.cut_tokens and fact.prompt - fact.cut_tokens >= 2:
            said = f"{fact.tokens} tokens; the prompt loses {fact.cut_tokens} of its {fact.prompt}: {brief(fact.cut)}"
            yield Hit(f"{fact.item.where}: {said}")


def no_end_of_turn(table: Table) -> Iterator[Hit]:
    """Rows in which an answer ends without a token that says so: a model that learns them never stops."""
    for fact in encoded(table):
        if not fact.refused and not fact.ends:
            yield Hit(f"{fact.item.where}: an answer ends without an end-of-turn token that is learned")


def serving_differs(table: Table) -> Iterator[Hit]:
    """Rows whose training text does not begin as the text the model is served with."""
    for fact in encoded(table):
        if fact.differs:
            yield Hit(f"{fact.item.where}: {fact.differs}")
