"""Collation: the arrays of a batch, with its shared prefix, the rest of each example, and supervised positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .tokenize import EncodedExample

# Lengths are rounded up to multiples of these, so that few shapes occur and each is compiled once.
PAD_TO = 8
PREFIX_STEP = 8
POSITIONS_STEP = 32


@dataclass
class Batch:
    """A batch of examples with a common prefix.

    Attributes:
        prefix: int32 [prefix], the tokens every example begins with.
        ids: int32 [batch, length], the rest of each, without its last token, padded on the right.
        positions: int32 [positions], flat indices into ``ids`` of the positions that predict a supervised token.
        targets: int32 [positions], the supervised tokens.
        weights: float32 [positions], their weights; 0 for padding.
        tokens: the number of weights above 0.
    """

    prefix: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    tokens: int

    @property
    def padded_tokens(self) -> int:
        """The number of tokens of the batch, prefix and padding included."""
        return self.ids.shape[0] * (len(self.prefix) + self.ids.shape[1])


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def padded_length(example: EncodedExample, prefix: int) -> int:
    """Return the length of an example's own tokens in a batch, without its last one: nothing is predicted from it."""
    return _round_up(len(example) - 1 - prefix, PAD_TO)


def common_prefix(examples: Sequence[EncodedExample]) -> int:
    """Return the number of leading tokens that all share and none needs for a prediction, rounded to few lengths.

    The hidden state before the first supervised token must be an example's own.
    """
    limit = min(int(e.supervised[1:].argmax()) for e in examples)
    block = np.stack([e.ids[:limit] for e in examples])
    differs = (block != block[0]).any(axis=0)
    shared = int(differs.argmax()) if differs.any() else limit
    return shared // PREFIX_STEP * PREFIX_STEP


def collate(
    examples: Sequence[EncodedExample], pad_id: int = 0, share_prefix: bool = True, prefix: int | None = None
) -> Batch:
    """Collate examples into the arrays of a batch.

    Args:
        prefix: tokens that all examples share with those of other batches; by default those that these alone share.
    """
    if prefix is None:
        prefix = common_prefix(examples) if share_prefix and len(examples) > 1 else 0
    start = prefix
    length = max(padded_length(e, start) for e in examples)
    ids = np.full((len(examples), length), pad_id, dtype=np.int32)
    positions, targets, weights = [], [], []
    for row, example in enumerate(examples):
        ids[row, : len(example) - 1 - start] = example.ids[start:-1]
        supervised = np.flatnonzero(example.supervised[1:]) + 1
        positions.append(row * length + supervised - 1 - start)
        targets.append(example.ids[supervised])
        by_token = 1.0 if example.token_weights is None else example.token_weights[supervised]
        weights.append(np.full(len(supervised), example.weight, dtype=np.float32) * by_token)
    count = sum(map(len, positions))
    padding = _round_up(count, POSITIONS_STEP) - count
    joined = np.concatenate(weights)
    return Batch(
        prefix=np.asarray(examples[0].ids[:start], dtype=np.int32),
        ids=ids,
        positions=np.pad(np.concatenate(positions), (0, padding)).astype(np.int32),
        targets=np.pad(np.concatenate(targets), (0, padding)).astype(np.int32),
        weights=np.pad(joined, (0, padding)).astype(np.float32),
        tokens=int((joined > 0).sum()),
    )


def with_same_prefix(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Yield consecutive batches with the same prefix together; those without a prefix alone."""
    together: list[Batch] = []
    for batch in batches:
        if together and not (len(batch.prefix) and np.array_equal(batch.prefix, together[0].prefix)):
            yield together
            together = []
        together.append(batch)
    if together:
        yield together


def in_order(examples: Sequence[EncodedExample], batch_size: int, pad_id: int = 0) -> Iterator[Batch]:
    """Yield all examples once, in batches ordered by length: for evaluation."""
    by_length = sorted(examples, key=len)
    for start in range(0, len(by_length), batch_size):
        yield collate(by_length[start : start + batch_size], pad_id)
