"""Micro-batches of an optimizer step: parts whose gradients are summed, chosen over the whole step.

A step's gradient is a sum over tokens, so that any division has the same gradient. The parts with the fewest tokens
are chosen, padding, prefixes and the overhead of each pass included; one that several parts share is computed once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .collate import Batch, collate, common_prefix, padded_length
from .tokenize import EncodedExample

# Smaller parts are chosen where all have at most N more tokens: they need less memory, and fit a CPU's caches.
SHARES, NEAR = (4 / 8, 5 / 8, 6 / 8, 7 / 8), 1.04


@dataclass(frozen=True)
class PassCost:
    """Overhead of a pass through the model, as the number of tokens that take as long to compute.

    Attributes:
        part: of each part.
        prefix: of the pass of a shared prefix. Where it costs nothing, a common prefix is always shared.
    """

    part: int = 64
    prefix: int = 0


# Of a device on which a pass starts at once: a CPU, Apple's GPUs.
SMALL = PassCost()


@dataclass
class _Sharing:
    """Examples with one common prefix, divided into parts.

    Attributes:
        tokens: computed tokens, padding included, and the overhead of each pass.
    """

    prefix: int
    parts: list[list[int]]
    tokens: int


def step_parts(
    step: Sequence[Sequence[int]],
    examples: Sequence[EncodedExample],
    groups: Sequence[int],
    most: int,
    cost: PassCost = SMALL,
) -> list[Batch]:
    """Divide an optimizer step into parts; those with the same prefix are neighbours.

    Args:
        step: the indices of each of its batches.
        groups: a number for each example, the same for those that share a long prefix.
        most: tokens of a part's own, padding included, unless one example alone has more. The step's largest batch
            bounds them too, so that a small batch size saves memory whatever the accumulation.
        cost: overhead of a pass on the device.
    """
    members = [i for batch in step for i in batch]
    if not members:
        return []
    by_group: dict[int, list[int]] = defaultdict(list)
    for i in members:
        by_group[groups[i]].append(i)
    # Where a prefix may be computed in every row, it counts in the largest batch too.
    prefix = 0 if cost.prefix else common_prefix([examples[i] for i in members])
    largest = max(len(batch) * max(padded_length(examples[i], prefix) for i in batch) for batch in step if batch)
    most = min(most, largest)
    ways = [[_divided(part, examples, most, cost) for part in way] for way in ([members], by_group.values())]
    best = min(ways, key=_tokens)
    members_of = [[i for part in sharing.parts for i in part] for sharing in best]
    smaller = ([_divided(part, examples, int(share * most), cost) for part in members_of] for share in SHARES)
    best = next((way for way in smaller if _tokens(way) <= NEAR * _tokens(best)), best)
    return [collate([examples[i] for i in part], prefix=sharing.prefix) for sharing in best for part in sharing.parts]


def _tokens(way: Sequence[_Sharing]) -> int:
    return sum(sharing.tokens for sharing in way)


def _divided(members: Sequence[int], examples: Sequence[EncodedExample], most: int, cost: PassCost) -> _Sharing:
    """Divide examples into the parts with the fewest tokens, with their common prefix shared or in every row."""
    prefix = common_prefix([examples[i] for i in members]) if len(members) > 1 else 0
    shared = _neighbours(members, examples, most, cost, prefix)
    if not prefix or not cost.prefix:
        return shared
    return min(shared, _neighbours(members, examples, most, cost, 0), key=lambda sharing: sharing.tokens)


def _neighbours(
    members: Sequence[int], examples: Sequence[EncodedExample], most: int, cost: PassCost, prefix: int
) -> _Sharing:
    """Divide examples into the parts with the fewest tokens: neighbours by length."""
    ordered = sorted(members, key=lambda i: len(examples[i]))
    lengths = [padded_length(examples[i], prefix) for i in ordered]
    # Of the first n: the fewest tokens, and where their last part begins.
    fewest, begins = [0], [0]
    for end in range(1, len(ordered) + 1):
        best, begin = fewest[end - 1] + cost.part + lengths[end - 1], end - 1
        for start in range(end - 2, -1, -1):
            own = (end - start) * lengths[end - 1]
            if own > most:
                break
            if fewest[start] + cost.part + own < best:
                best, begin = fewest[start] + cost.part + own, start
        fewest.append(best)
        begins.append(begin)
    parts, end = list[list[int]](), len(ordered)
    while end:
        parts.append(ordered[begins[end] : end])
        end = begins[end]
    return _Sharing(prefix, parts[::-1], (prefix + cost.prefix if prefix else 0) + fewest[-1])
