"""Segments: an encoded example as text again, in runs of tokens of equal weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .tokenize import EncodedExample


@dataclass
class Segment:
    """Neighbouring tokens with one weight.

    Attributes:
        weight: the factor of their loss, the example's weight included; 0 for unsupervised tokens.
    """

    text: str
    tokens: int
    supervised: bool
    weight: float


def segments(tokenizer: Any, example: EncodedExample) -> Iterator[Segment]:
    """Yield the example's tokens in order, special ones as text."""
    by_token = np.ones(len(example)) if example.token_weights is None else example.token_weights
    weights = np.where(example.supervised, by_token * example.weight, 0.0)
    changes = np.flatnonzero((np.diff(weights) != 0) | (np.diff(example.supervised.astype(int)) != 0)) + 1
    for run in np.split(np.arange(len(example)), changes):
        text = tokenizer.decode(example.ids[run].tolist(), skip_special_tokens=False)
        yield Segment(text, len(run), bool(example.supervised[run[0]]), float(weights[run[0]]))
