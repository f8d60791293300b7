"""Sampler: the order of an epoch, a function of the examples, the seed and the epoch alone, equal on every backend.

Each epoch is a new permutation, bucketed by length and prefix: neighbours share a long prompt prefix, then a similar
length. No example is left out or seen twice. With balanced batches each dataset of a mix has its share of every batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .collate import PAD_TO
from .mixture import batch_quotas
from .tokenize import EncodedExample

# Optimizer steps within which examples may change places to be bucketed by length and prefix.
WINDOW_STEPS = 16
# The shared prefix of a group must at least double the one shared anyway: below that, mixing is worth more.
DEEPER = 2
LEAST_PREFIX = 32

Step = list[list[int]]


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of ``count`` examples."""
    return _generator(seed, epoch).permutation(count)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, epoch]))


def steps_per_epoch(count: int, batch_size: int, accumulation: int) -> int:
    """Return the optimizer steps that see each of ``count`` examples once; the last may be smaller."""
    return -(-count // (batch_size * accumulation))


def _prompt(example: EncodedExample) -> np.ndarray:
    return example.ids[: int(example.supervised[1:].argmax())]


def prefix_groups(examples: Sequence[EncodedExample], least: int) -> list[int]:
    """Return a group number for each example: those of a group of at least ``least`` share a long prompt prefix."""
    prompts = [_prompt(e) for e in examples]
    groups = [0] * len(examples)
    pending, count = [(list(range(len(examples))), 0)], 0
    while pending:
        members, shared = pending.pop()
        depth = max(LEAST_PREFIX, DEEPER * max(shared, _shared(prompts, members)))
        by_prefix: dict[bytes, list[int]] = defaultdict(list)
        for i in members:
            if len(prompts[i]) >= depth:
                by_prefix[prompts[i][:depth].tobytes()].append(i)
        for group in by_prefix.values():
            if least <= len(group) < len(members):
                count += 1
                for i in group:
                    groups[i] = count
                pending.append((group, depth))
    return groups


def _shared(prompts: Sequence[np.ndarray], members: Sequence[int]) -> int:
    """Return the length of the prefix that all members share."""
    first = prompts[members[0]]
    length = len(first)
    for i in members:
        other = prompts[i][:length]
        differs = first[: len(other)] != other
        length = int(differs.argmax()) if differs.any() else len(other)
    return length


def epoch_plan(
    examples: Sequence[EncodedExample],
    groups: Sequence[int],
    batch_size: int,
    accumulation: int,
    seed: int,
    epoch: int,
) -> list[Step]:
    """Return the micro-batches of each optimizer step of an epoch, as indices of examples."""
    generator = _generator(seed, epoch)
    order = generator.permutation(len(examples))
    per_step = batch_size * accumulation
    # At most half of a small dataset, or the same examples would share a batch in every epoch.
    window = per_step * max(1, min(WINDOW_STEPS, len(examples) // 2 // per_step))
    steps: list[Step] = []
    for start in range(0, len(order), window):
        # The sort is stable, so that within one padded length the permutation decides.
        members = order[start : start + window].tolist()
        members.sort(key=lambda i: (groups[i], -(-len(examples[i]) // PAD_TO)))
        batches = [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
        shuffled = [batches[i] for i in generator.permutation(len(batches))]
        steps += [shuffled[i : i + accumulation] for i in range(0, len(shuffled), accumulation)]
    return steps


def balanced_plan(
    examples: Sequence[EncodedExample],
    groups: Sequence[int],
    drawn: Sequence[Sequence[int]],
    batch_size: int,
    accumulation: int,
    seed: int,
    epoch: int,
) -> list[Step]:
    """Return the micro-batches of each optimizer step of an epoch, each with every dataset's share.

    Args:
        drawn: the indices of each dataset's examples, in the order in which the epoch sees them.
    """
    generator = _generator(seed, epoch)
    quotas = np.array(batch_quotas([len(rows) for rows in drawn], batch_size))
    # At most half of a dataset, or copies of an example would share a batch where an epoch has several passes over it.
    per_step, total = batch_size * accumulation, sum(map(len, drawn))
    halves = [len(set(rows)) * total // (2 * len(rows) * per_step) for rows in drawn]
    window = accumulation * max(1, min(WINDOW_STEPS, *halves))
    batches: list[list[int]] = []
    for start in range(0, len(quotas), window):
        here, before = quotas[start : start + window], quotas[:start].sum(axis=0)
        filled: list[list[int]] = [[] for _ in here]
        # Batches take neighbours by prefix and length in a random order, and stay where their quota is.
        turns = generator.permutation(len(here))
        for number, rows in enumerate(drawn):
            members = list(rows[before[number] : before[number] + here[:, number].sum()])
            members.sort(key=lambda i: (groups[i], -(-len(examples[i]) // PAD_TO)))
            for turn in turns:
                filled[turn] += members[: here[turn, number]]
                del members[: here[turn, number]]
        batches += filled
    return [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
