"""Mixing datasets: counts, order, and a run over two of them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.config import load_config
from mlx_lora.data.mixture import Mix, epoch_counts
from mlx_lora.errors import UserError


def test_shares_of_an_epoch():
    assert epoch_counts([100, 100], [1, 1]) == [100, 100]
    assert epoch_counts([10, 30], [1, 1]) == [20, 20]
    assert epoch_counts([50, 50], [9, 1]) == [90, 10]
    assert epoch_counts([1, 1, 1], [1, 1, 1]) == [1, 1, 1]
    assert epoch_counts([5, 5], [2, 1]) == [7, 3]
    with pytest.raises(UserError, match="dataset 2 is less than one example in an epoch of 20"):
        epoch_counts([10, 10], [1, 0.01])


@given(
    sets=st.lists(st.tuples(st.integers(1, 40), st.floats(0.2, 5)), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_is_as_long_as_all_together_and_wastes_nothing(sets, seed):
    sizes, weights = [s for s, _ in sets], [w for _, w in sets]
    try:
        counts = epoch_counts(sizes, weights)
    except UserError:
        return
    assert sum(counts) == sum(sizes)
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - weight / sum(weights) * sum(sizes)) < 1
    mix = Mix(sizes, weights, seed)
    drawn = Counter(i for epoch in range(1, 4) for i in mix.epoch(epoch))
    start = 0
    for size, count in zip(sizes, counts, strict=True):
        seen = [drawn[i] for i in range(start, start + size)]
        assert sum(seen) == 3 * count
        assert max(seen) - min(seen) <= 1  # none comes again before all others have come
        start += size


def test_the_draw_is_a_function_of_seed_and_epoch():
    mix = Mix([30, 30], [1, 3], 7)
    assert mix.epoch(2) == Mix([30, 30], [1, 3], 7).epoch(2)
    assert mix.epoch(1) != mix.epoch(2)
    assert mix.epoch(1) != Mix([30, 30], [1, 3], 8).epoch(1)
    assert sum(i < 30 for i in mix.epoch(1)) == 15
    assert set(mix.epoch(1)[:15]).isdisjoint(mix.epoch(2)[:15])


def test_the_config_names_several_datasets(tmp_path):
    (tmp_path / "c.yaml").write_text("data:\n  - {path: a, weight: 2}\n  - {path: b}\nwaive_checks: [secrets]\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.data == [{"path": "a", "weight": 2.0}, {"path": "b", "weight": 1.0}]
    assert config.waive_checks == ["secrets"]
    assert config.training_fingerprint()["data_weights"] == [2.0, 1.0]
    assert "waive_checks" not in config.training_fingerprint()
    assert load_config(None, ["data=x"]).data == "x"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[]", "data is empty"),
        ("[a, b]", "an item of data must be {path: DIR, weight: a number above 0}, not 'a'"),
        ("[{path: a, weight: 0}]", "must be {path: DIR"),
        ("[{path: a, weight: .nan}]", "must be {path: DIR"),
        ("[{path: a, weight: true}]", "must be {path: DIR"),
        ("[{path: a, share: 2}]", "must be {path: DIR"),
        ("[{path: a}, {path: a}]", "data names 'a' twice"),
        ("3", "data must be text or a list of {path, weight} or null, not 3"),
    ],
)
def test_bad_shares_are_one_sentence(value, said):
    with pytest.raises(UserError) as error:
        load_config(None, [f"data={value}"])
    assert said in str(error.value)


def dataset(directory, word, count):
    directory.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": f"{word} {i}"}, {"role": "assistant", "content": f"the {word} {i}"}]}
        for i in range(count)
    ]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "valid.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word}]}) + "\n"
    )
    return directory


def test_a_run_over_two_datasets(tmp_path):
    from mlx_lora.training.train import train

    one, two = dataset(tmp_path / "one", "stone", 12), dataset(tmp_path / "two", "river", 4)
    settings = ["model_name=builtin/tiny-lumen", "lora_rank=2", "gradient_accumulation_steps=1", "num_epochs=1"]

    def run(name, weight):
        shares = [f"data=[{{path: {one}, weight: 1}}, {{path: {two}, weight: {weight}}}]"]
        return train(load_config(None, [*settings, *shares, f"output_dir={tmp_path / name}"]), quiet=True)[1]

    result = run("run", 1)
    assert result.steps == 4
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [(d["path"], d["examples"], d["in_an_epoch"]) for d in record["data"]] == [
        (str(one), 12, 8),
        (str(two), 4, 8),
    ]
    assert set(record["data_sha256"]) == {f"{d}/{split}" for d in (one, two) for split in ("train", "valid")}
    start = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert (start["train_examples"], start["valid_examples"]) == (16, 2)
    assert run("again", 1).loss == result.loss
    with pytest.raises(UserError, match=r"data_weights was \[1.0, 1.0\] and is \[1.0, 3.0\]"):
        run("run", 3)
    (two / "train.jsonl").write_text((two / "train.jsonl").read_text() * 2)
    with pytest.raises(UserError, match=r"two/train.jsonl has changed"):
        run("run", 1)
