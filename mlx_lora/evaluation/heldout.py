"""Held-out loss of each row of a dataset: tokenized as training does, in nats a supervised token."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..backends import Backend
from ..data.collate import collate
from ..data.dataset import Example, read_split, split_file
from ..data.tokenize import EncodedExample, encode_examples
from ..errors import UserError
from ..files import FORMAT, write_json

# Keys of a row's meta that name what rows share, the first that tells at least two groups apart.
CLUSTER_KEYS = ("session", "shape", "template")
# Longest row where no run says with which length it was trained.
LENGTH = 2048


@dataclass
class HeldoutPart:
    """Held-out rows of one dataset, its validation split or else its test split.

    Attributes:
        clusters: the session, shape or template of each row; a row without one is its own. None: each is its own.
    """

    name: str
    file: Path
    examples: list[Example]
    clusters: list[Hashable] | None


@dataclass
class RowLosses:
    """Losses of a part's rows.

    Attributes:
        losses: mean cross-entropy of each row, nats a supervised token.
        tokens: supervised tokens of each row.
        tokens_sha256: hash of token ids and supervised positions: losses are comparable where it is the same.
    """

    losses: list[float]
    tokens: list[int]
    tokens_sha256: str

    @property
    def mean(self) -> float:
        """Mean over all supervised tokens, each counted once: the trainer's validation loss."""
        return math.fsum(a * b for a, b in zip(self.losses, self.tokens, strict=True)) / sum(self.tokens)


def read_heldout(directory: str | Path) -> HeldoutPart:
    """Read the validation split of a dataset, or its test split where that is empty.

    Raises:
        UserError: there is no such dataset, it has no held-out rows, or see ``read_split``.
    """
    for split in ("valid", "test"):
        # A row without weight is not learned, and has no loss.
        examples = [example for example in read_split(directory, split) if example.weight > 0]
        if examples:
            return HeldoutPart(str(directory), split_file(directory, split), examples, clusters_of(examples))
    raise UserError(f"{directory}: this dataset has neither validation nor test rows, so no held-out loss")


def clusters_of(examples: Sequence[Example]) -> list[Hashable] | None:
    """Return the session, shape or template of each row, its number where it has none; None: none tells rows apart."""
    for key in CLUSTER_KEYS:
        found = [example.meta.get(key) for example in examples]
        named = [json.dumps(value, sort_keys=True) if value is not None else None for value in found]
        if len(set(named) - {None}) > 1:
            return [number if name is None else name for number, name in enumerate(named)]
    return None


def training_length(runs: Sequence[Mapping[str, Any]]) -> tuple[int, bool]:
    """Return ``max_seq_length`` and ``train_on_prompt`` of the first run that was trained with some.

    Args:
        runs: contents of ``run.json``; empty for a base.
    """
    for run in runs:
        learned = run.get("learned_from", {})
        if isinstance(learned.get("max_seq_length"), int):
            return learned["max_seq_length"], bool(learned.get("train_on_prompt", False))
    return LENGTH, False


def heldout_losses(
    backend: Backend,
    identity: str,
    part: HeldoutPart,
    length: tuple[int, bool],
    saved: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> RowLosses:
    """Return the loss of each row, one row at a time, or the saved ones of this model and these tokens.

    Args:
        identity: the target's.
        length: see :func:`training_length`.
        saved: file that keeps the losses, or None.

    Raises:
        UserError: see ``encode_examples``, or the file cannot be written.
    """
    max_seq_length, on_prompt = length
    context = backend.base.context or max_seq_length
    rows = encode_examples(
        backend.tokenizer, part.examples, min(max_seq_length, context), str(part.file), train_on_prompt=on_prompt
    )
    digest = _digest(rows)
    known = None if saved is None else _read(saved, identity, digest)
    if known is not None:
        return known
    losses, tokens = [], []
    for number, row in enumerate(rows, 1):
        batch = collate([row])
        losses.append(backend.evaluate(batch) / batch.tokens)
        tokens.append(batch.tokens)
        advance(number)
    found = RowLosses(losses, tokens, digest)
    if saved is not None and all(map(math.isfinite, losses)):
        write_json(saved, {"format": FORMAT, "target": identity, **asdict(found)})
    return found


def _digest(rows: Sequence[EncodedExample]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little") + row.ids.tobytes() + row.supervised.tobytes())
    return digest.hexdigest()


def _read(file: Path, identity: str, digest: str) -> RowLosses | None:
    try:
        content = json.loads(file.read_bytes())
        if (content["format"], content["target"], content["tokens_sha256"]) == (FORMAT, identity, digest):
            return RowLosses(content["losses"], content["tokens"], digest)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # measured again
    return None
