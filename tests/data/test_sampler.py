import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.config import TrainingConfig
from mlx_lora.data.mixture import Mix, batch_quotas
from mlx_lora.data.sampler import balanced_plan, epoch_order, epoch_plan, prefix_groups, steps_per_epoch
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.training.trainer import training_steps


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


def digest(config, train, mix):
    steps = zip(range(21), training_steps(config, train, mix=mix), strict=False)
    seen = [[epoch, step, [batch.ids.tolist() for batch in batches]] for _, (epoch, step, batches) in steps]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def test_without_balance_the_order_is_that_of_earlier_versions():
    """Measured before there were balanced batches: a run of then resumes with the batches it would have had."""
    config = TrainingConfig(batch_size=4, gradient_accumulation_steps=2, seed=3)
    train = [example(SYSTEM[i % 3], own=10 + i % 9, seed=i) for i in range(50)]
    assert digest(config, train, None) == "518e9fc245738417"
    assert digest(config, train, Mix([30, 20], [1, 1], 3)) == "ddb67aa9e0c1d698"
    balanced = replace(config, balance_batches=True)
    assert digest(balanced, train, None) == "518e9fc245738417"
    assert digest(balanced, train, Mix([30, 20], [1, 1], 3)) != "ddb67aa9e0c1d698"


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=4),
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 3),
)
def test_every_batch_has_its_share_of_each_dataset(counts, batch_size, accumulation):
    quotas, total = batch_quotas(counts, batch_size), sum(counts)
    assert [sum(quota) for quota in quotas] == [min(batch_size, total - done) for done in range(0, total, batch_size)]
    assert [sum(column) for column in zip(*quotas, strict=True)] == counts
    for i, count in enumerate(counts):
        for quota in quotas[:-1]:
            assert abs(quota[i] - batch_size * count / total) < 1
        # The remainder is spread over the epoch: no stretch of it is far from its share.
        done = [
            sum(quota[i] for quota in quotas[:k]) - min(total, k * batch_size) * count / total
            for k in range(len(quotas))
        ]
        assert max(map(abs, done)) < (1 if len(counts) == 2 else 2)
        if len(counts) == 2:
            steps = [quotas[k : k + accumulation] for k in range(0, len(quotas), accumulation)][:-1]
            share = batch_size * accumulation * count / total
            assert all(abs(sum(quota[i] for quota in step) - share) < 1 for step in steps)


@pytest.mark.parametrize("sizes", [(40, 24), (9, 90), (30, 30, 5), (1, 1)])
def test_a_balanced_epoch_has_what_the_mix_draws(sizes):
    count = sum(sizes)
    config = TrainingConfig(batch_size=4, gradient_accumulation_steps=2, seed=5, balance_batches=True)
    train = [example(SYSTEM[i % 3], own=5 + i % 9, seed=i) for i in range(count)]
    mix = Mix(list(sizes), [1.0] * len(sizes), 5)
    per_epoch = steps_per_epoch(count, 4, 2)
    plan = [step for _, (_, step, _) in zip(range(3 * per_epoch), training_steps(config, train, mix=mix), strict=False)]
    for epoch in range(3):
        drawn = [i for step in plan[epoch * per_epoch : (epoch + 1) * per_epoch] for batch in step for i in batch]
        assert sorted(drawn) == sorted(mix.epoch(epoch + 1))
    # From any step on, the rest is the same: a run resumes in the middle of an epoch.
    for after in (1, per_epoch + 1):
        rest = training_steps(config, train, after, mix)
        assert [next(rest)[1] for _ in range(per_epoch)] == plan[after : after + per_epoch]
    other = [
        step for _, (_, step, _) in zip(plan, training_steps(replace(config, seed=6), train, mix=mix), strict=False)
    ]
    assert count == 2 or other != plan


def test_balanced_batches_are_bucketed_and_have_no_copies():
    rng = np.random.default_rng(0)
    train = [example(SYSTEM[0], own=int(rng.integers(5, 200)), seed=i) for i in range(256)]
    few = [example(SYSTEM[0], own=int(rng.integers(5, 200)), seed=i) for i in range(300, 332)]
    plan = balanced_plan([*train, *few], [0] * 288, Mix([256, 32], [1, 1], 1).drawn(1), 8, 1, seed=1, epoch=1)
    assert all(sum(i < 256 for i in batch) == 4 for step in plan for batch in step)
    # The small dataset comes four times an epoch, and no batch has one of its examples twice.
    assert all(len(set(batch)) == 8 for step in plan for batch in step)
    alone = balanced_plan(train, [0] * 256, [range(128), range(128, 256)], 8, 1, seed=1, epoch=1)
    padded = sum(max(len(train[i]) for i in batch) * len(batch) for step in alone for batch in step)
    assert padded < 1.1 * sum(len(e) for e in train)
    assert alone != balanced_plan(train, [0] * 256, [range(128), range(128, 256)], 8, 1, seed=1, epoch=2)
