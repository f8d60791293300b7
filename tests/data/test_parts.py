"""The parts of an optimizer step: every example once, no more memory than the config allows, the fewest tokens."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_lora.data.collate import collate, with_same_prefix
from mlx_lora.data.parts import PassCost, step_parts
from mlx_lora.data.tokenize import EncodedExample

SYSTEM = np.arange(64)


def example(length, seed, prefix=SYSTEM, answer=4):
    rng = np.random.default_rng(seed)
    ids = np.r_[prefix, 1000 + seed, rng.integers(100, 900, length - len(prefix) - 1)].astype(np.int32)
    return EncodedExample(ids, np.arange(length) >= length - answer)


def rows_of(parts):
    return sum(len(part.ids) for part in parts)


def tokens_of(parts):
    return sum(
        len(together[0].prefix) + sum(part.ids.size for part in together) for together in with_same_prefix(parts)
    )


def test_long_prompts_share_their_prefix_although_each_is_a_part_of_its_own():
    examples = [example(1000 + 8 * i, i, prefix=np.arange(500)) for i in range(8)]
    parts = step_parts([range(4), range(4, 8)], examples, [0] * 8, 600)
    assert [part.ids.shape[0] for part in parts] == [1] * 8
    assert [len(part.prefix) for part in parts] == [496] * 8
    assert len(list(with_same_prefix(parts))) == 1


def test_parts_are_chosen_over_the_whole_step():
    """Two batches of a short and a long row each: the short ones belong together, and the long ones."""
    examples = [example(length, i) for i, length in enumerate((80, 400, 80, 400))]
    parts = step_parts([[0, 1], [2, 3]], examples, [0] * 4, 2048)
    assert sorted(part.ids.shape for part in parts) == [(2, 16), (2, 336)]


def test_a_part_is_no_larger_than_the_largest_batch_or_micro_batch_tokens():
    examples = [example(100, i) for i in range(16)]
    for size, most, expected in ((2, 2048, 2), (8, 2048, 8), (8, 90, 2), (16, 10, 1)):
        step = [range(start, start + size) for start in range(0, 16, size)]
        parts = step_parts(step, examples, [0] * 16, most)
        assert max(len(part.ids) for part in parts) == expected
        assert rows_of(parts) == 16


@pytest.mark.parametrize("seed", range(5))
def test_every_example_once_with_no_more_tokens_than_batch_by_batch(seed):
    rng = np.random.default_rng(seed)
    prefixes = [SYSTEM, np.r_[SYSTEM, np.full(150, 7)], np.r_[SYSTEM, np.full(150, 8)]]
    kinds = rng.integers(0, 3, 24)
    examples = [example(int(rng.integers(230, 300)), i, prefix=prefixes[kind]) for i, kind in enumerate(kinds)]
    step = [range(start, start + 4) for start in range(0, 24, 4)]
    parts = step_parts(step, examples, list(kinds), 2048)
    supervised = sorted(token for part in parts for token in part.targets[part.weights > 0])
    assert supervised == sorted(token for e in examples for token in e.ids[e.supervised])
    assert tokens_of(parts) <= tokens_of([collate([examples[i] for i in batch]) for batch in step])


def divided(examples, cost, most=16384):
    parts = step_parts([range(len(examples))], examples, [0] * len(examples), most, cost)
    assert rows_of(parts) == len(examples)
    return [(part.ids.shape[0], len(part.prefix)) for part in parts]


def test_where_a_pass_costs_much_there_are_fewer_of_them():
    """On a GPU a pass takes as long as hundreds of tokens: padding and a prefix in every row are cheaper."""
    examples = [example(length, i) for i, length in enumerate((80, 100, 200, 400))]
    assert divided(examples, PassCost()) == [(2, 64), (1, 64), (1, 64)]
    assert divided(examples, PassCost(part=1500, prefix=1500)) == [(4, 0)]
    # Where the prefix is long, a pass of its own is still worth it.
    long = [example(1000 + 8 * i, i, prefix=np.arange(900)) for i in range(8)]
    assert divided(long, PassCost(part=1500, prefix=1500)) == [(8, 896)]
    # A part with the prefix in every row keeps to the limit too.
    assert divided(examples, PassCost(part=1500, prefix=1500), most=800) == [(3, 0), (1, 0)]


@pytest.mark.parametrize("cost", [100, 1500, 20000])
def test_the_cost_of_a_pass_counts_for_the_prefix_s_own(cost):
    """Sharing 64 tokens among 8 rows saves 448 of them."""
    examples = [example(200, i) for i in range(8)]
    assert divided(examples, PassCost(part=cost, prefix=cost)) == [(8, 64 if cost < 448 else 0)]


def test_a_process_without_a_share_has_no_parts():
    assert step_parts([], [], [], 10) == []
    assert step_parts([[]], [], [], 10) == []
