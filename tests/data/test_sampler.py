from collections import Counter

import numpy as np
import pytest

from mlx_lora.data.sampler import epoch_order, epoch_plan, prefix_groups, steps_per_epoch
from mlx_lora.data.tokenize import EncodedExample


def example(prompt, own=10, answer=4, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.r_[prompt, rng.integers(1000, 9999, own + answer)].astype(np.int32)
    mask = np.zeros(len(ids), dtype=bool)
    mask[-answer:] = True
    return EncodedExample(ids, mask)


SYSTEM = [np.arange(s * 100, s * 100 + 60) for s in range(3)]


def test_the_order_is_promised_to_other_backends_and_to_resumed_runs():
    assert list(epoch_order(8, 42, 1)) == [0, 4, 6, 1, 2, 7, 3, 5]
    assert list(epoch_order(8, 42, 2)) == [6, 5, 0, 4, 7, 3, 1, 2]


@pytest.mark.parametrize("count", [1, 7, 23, 400])
def test_every_example_once_an_epoch(count):
    examples = [example(SYSTEM[i % 3], own=5 + i % 9, seed=i) for i in range(count)]
    groups = prefix_groups(examples, 4)
    plans = [epoch_plan(examples, groups, 4, 2, seed=1, epoch=e) for e in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert count < 2 or plans[0] != plans[2]
    for plan in plans:
        assert len(plan) == steps_per_epoch(count, 4, 2)
        assert sorted(i for step in plan for batch in step for i in batch) == list(range(count))
        assert all(len(batch) <= 4 for step in plan for batch in step)
        assert all(len(step) <= 2 for step in plan)


def test_examples_with_the_same_long_prompt_sit_together():
    examples = [example(SYSTEM[i % 3], seed=i) for i in range(96)]
    groups = prefix_groups(examples, 8)
    assert Counter(zip(groups, (i % 3 for i in range(96)), strict=True)).most_common(4)[-1][1] == 32
    plan = epoch_plan(examples, groups, 8, 1, seed=1, epoch=1)
    mixed = sum(len({i % 3 for i in batch}) > 1 for step in plan for batch in step)
    assert mixed <= 2


def test_a_prefix_of_all_makes_no_groups_and_a_specification_does():
    assert set(prefix_groups([example(SYSTEM[0], seed=i) for i in range(32)], 8)) == {0}
    # A little more in common (here 20 tokens beyond 60) is not worth batches of one kind.
    little = [example(np.r_[SYSTEM[0], np.full(20, i % 2)], seed=i) for i in range(32)]
    assert set(prefix_groups(little, 8)) == {0}
    much = [example(np.r_[SYSTEM[0], np.full(200, i % 2)], seed=i) for i in range(32)]
    assert len(set(prefix_groups(much, 8))) == 2


def test_similar_lengths_sit_together():
    rng = np.random.default_rng(0)
    examples = [example(SYSTEM[0], own=int(rng.integers(5, 200)), seed=i) for i in range(256)]
    plan = epoch_plan(examples, prefix_groups(examples, 8), 8, 1, seed=1, epoch=1)
    padded = sum(max(len(examples[i]) for i in batch) * len(batch) for step in plan for batch in step)
    assert padded < 1.1 * sum(len(e) for e in examples)


def test_the_order_is_no_function_of_the_datas_order():
    """The first step of an epoch is as likely to hold a late example as an early one."""
    examples = [example(SYSTEM[0], own=5 + i, seed=i) for i in range(64)]
    first = [i for seed in range(300) for b in epoch_plan(examples, [0] * 64, 4, 1, seed, 1)[0] for i in b]
    counts = Counter(i // 16 for i in first)
    assert max(counts.values()) < 1.3 * min(counts.values())
