"""Replay: rows of earlier nights, drawn for the batches of a later one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .dataset import Example


def draw_replay(nights: Mapping[str, Sequence[Example]], size: int, seed: int) -> list[Example]:
    """Return ``size`` examples of earlier nights, night after night, each with its night's key as ``meta["night"]``.

    Every night is drawn from equally often, one time more or less, however many examples it has: what was learned
    once is forgotten as easily as what was learned from much. A night's examples are sampled without replacement, in
    a new order for each pass. Nights without examples are passed over.
    """
    filled = {key: examples for key, examples in nights.items() if examples}
    if not filled or size < 1:
        return []
    generator = np.random.Generator(np.random.PCG64([seed, len(filled)]))
    each, more = divmod(size, len(filled))
    luckier = set(generator.permutation(len(filled))[:more].tolist())
    drawn: list[Example] = []
    for number, (key, examples) in enumerate(filled.items()):
        wanted, order = each + (number in luckier), list[int]()
        while len(order) < wanted:
            order += generator.permutation(len(examples)).tolist()
        drawn += [replace(examples[i], meta={**examples[i].meta, "night": key}) for i in order[:wanted]]
    return drawn
