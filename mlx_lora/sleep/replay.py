"""Replay of a night: stored rows of earlier nights, and the live adapter's own answers where they pass the check.

Measured over seven nights of new shapes (spec/sleep.md): own answers where they pass and stored ones where they do not
keep every earlier night whole; own answers alone lose what the live adapter fails once. Own answers carry a bounded
share of the loss, since models that learn mostly from themselves collapse.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.dataset import Example, read_trainable
from ..data.replay import draw_replay
from ..errors import UserError
from ..evaluation.scorers import Score
from .config import ReplayConfig

# Mark in the meta of a row whose answer is the live adapter's own; such a row is never of a night's stored data.
OWN = "own_answer"
# Conversations that are answered in one call.
GROUP = 32

Check = Callable[[Example, str], Score]
Answer = Callable[[list[list[dict[str, Any]]]], list[str]]
Tokens = Callable[[Example], int]
Usable = Callable[[Sequence[Example]], Sequence[bool]]


@dataclass
class Replay:
    """Rows that a night trains on again.

    Attributes:
        counts: ``own`` and ``stored`` answers, together all rows; ``gold`` of the stored ones that were not to be
            answered anew; rows by ``nights``; ``own_loss``, the share of the loss that own answers carry.
    """

    examples: list[Example]
    counts: dict[str, Any]


def make_replay(
    nights: Mapping[str, Path],
    new: Sequence[Example],
    config: ReplayConfig,
    seed: int,
    *,
    checks: Mapping[str, Check],
    answer: Answer | None,
    tokens: Tokens,
    size: int,
    usable: Usable = lambda examples: [True] * len(examples),
) -> Replay:
    """Draw rows of earlier nights, and answer them anew where the answer can be checked.

    Args:
        nights: key → dataset directory of each earlier night; its training rows are drawn from, and never changed.
        new: the night's own training rows, for the share of the loss.
        checks: check of an answer, by the store's name (``meta["sleep_store"]``); rows of other stores stay as stored.
        answer: the live adapter's answers to conversations; ``None``: all rows stay as stored.
        tokens: counts the supervised tokens of an example.
        size: rows.
        usable: False for examples that would stop training, such as an answer that writes a control token.

    Raises:
        UserError: a night's dataset is gone or broken.
    """
    stored = {key: [e for e in read_trainable(path) if not e.meta.get(OWN)] for key, path in nights.items()}
    drawn = draw_replay(stored, size, seed)
    gold = _gold(len(drawn), config)
    asked = [i for i, example in enumerate(drawn) if not gold[i] and _can_be_answered(example, checks)]
    own = _own_rows([drawn[i] for i in asked], checks, answer, tokens) if answer and config.own_loss > 0 else {}
    own = {
        asked[place]: example
        for (place, example), good in zip(own.items(), usable(list(own.values())), strict=True)
        if good
    }
    scale, share = _bounded(drawn, own, new, config, tokens)
    if not scale:
        own = {}
    scaled = {i: replace(example, weight=example.weight * scale) for i, example in own.items()}
    counts = {
        "own": len(own),
        "stored": len(drawn) - len(own),
        "gold": sum(gold),
        "nights": dict(Counter(example.meta["night"] for example in drawn)),
        "own_loss": share,
    }
    return Replay([scaled.get(i, example) for i, example in enumerate(drawn)], counts)


def _gold(count: int, config: ReplayConfig) -> list[bool]:
    """Return True for the rows that stay as stored: at least their share, evenly over the nights' rows."""
    share = 1.0 if config.source == "gold" else config.gold
    # Rounded, or 0.07 × 100 would be 8.
    upto = [math.ceil(round(i * share, 9)) for i in range(count + 1)]
    return [upto[i + 1] > upto[i] for i in range(count)]


def _can_be_answered(example: Example, checks: Mapping[str, Check]) -> bool:
    """Return True if the store has a check, and a text alone can stand where the stored answer does."""
    last = example.messages[-1]
    plain = last["role"] == "assistant" and set(last) <= {"role", "content"}
    # The live adapter is asked with messages alone.
    return plain and example.meta.get("sleep_store") in checks and not (example.tools or example.template_kwargs)


def _own_rows(
    rows: Sequence[Example], checks: Mapping[str, Check], answer: Answer, tokens: Tokens
) -> dict[int, Example]:
    """Return the rows with own answers that pass their store's check, by their place."""
    # A row that is drawn twice is asked once.
    prompts = {json.dumps(row.messages[:-1]): row.messages[:-1] for row in rows}
    asked, texts = list(prompts.values()), list[str]()
    for start in range(0, len(asked), GROUP):
        texts += answer(asked[start : start + GROUP])
    said = dict(zip(prompts, texts, strict=True))
    found: dict[int, Example] = {}
    for place, row in enumerate(rows):
        text = said[json.dumps(row.messages[:-1])]
        if text.strip() and checks[row.meta["sleep_store"]](row, text).passed:
            example = _with_answer(row, text)
            try:
                tokens(example)
            except UserError:  # it does not fit max_seq_length
                continue
            found[place] = example
    return found


def _with_answer(row: Example, text: str) -> Example:
    last = len(row.messages) - 1
    return replace(
        row,
        messages=[*row.messages[:-1], {**row.messages[-1], "content": text}],
        # Characters of the stored answer.
        spans=[span for span in row.spans if span.message != last],
        meta={**row.meta, OWN: True},
    )


def _bounded(
    drawn: Sequence[Example], own: Mapping[int, Example], new: Sequence[Example], config: ReplayConfig, tokens: Tokens
) -> tuple[float, float]:
    """Return the factor of the own rows' weights, and the share of the loss that they carry then.

    A row's part of the loss is its weight times its supervised tokens; of each batch, ``config.share`` is replay.
    """
    if not own:
        return 1.0, 0.0
    by_own = sum(row.weight * tokens(row) for row in own.values())
    by_stored = sum(row.weight * tokens(row) for i, row in enumerate(drawn) if i not in own)
    by_new = sum(row.weight * tokens(row) for row in new) / max(1, len(new))
    own_part = config.share * by_own / len(drawn)
    other = (1 - config.share) * by_new + config.share * by_stored / len(drawn)
    scale = 1.0
    if own_part > config.own_loss * (own_part + other):
        scale = config.own_loss * other / ((1 - config.own_loss) * own_part)
    total = scale * own_part + other
    return scale, scale * own_part / total if total else 0.0
