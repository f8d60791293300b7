"""`train --increment --replay`: what is replayed, that a kill changes nothing, and that it keeps what was learned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from statistics import mean

import numpy as np
import pytest
from safetensors.numpy import load_file
from training.test_increment_kills import KILLED, SETTINGS

from mlx_lora.data.dataset import Example, read_split, write_dataset
from mlx_lora.runs.events import Evaluation, TrainingWarning, of_kind, read_events


def chats(numbers, word="shape"):
    return [
        Example(
            [{"role": "user", "content": f"{word} {i}"}, {"role": "assistant", "content": f"answer {i}"}],
            meta={"item_id": f"{word}-{i}"},
        )
        for i in numbers
    ]


@pytest.fixture
def dataset(tmp_path):
    def make(name, train, valid=()) -> str:
        if not (tmp_path / name).exists():
            write_dataset(tmp_path / name, {"train": train, "valid": valid}, {"source": "hand"})
        return str(tmp_path / name)

    return make


@pytest.fixture
def increment(command):
    def run(data, out, *more):
        done = command("train", "--increment", *SETTINGS, "--data", data, "--out", out, "--json", *more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.slow
def test_half_of_each_batch_is_of_earlier_rounds(dataset, increment, tmp_path):
    out = tmp_path / "live"
    # Each day's dataset holds all days, as a source that is read anew makes it.
    seen, judged = [], []
    for number, (count, held) in enumerate(((12, 3), (30, 2), (10, 4)), 1):
        seen += chats(range(len(seen), len(seen) + count))
        judged += chats(range(len(judged), len(judged) + held), "held")
        done = increment(dataset(f"day-{number}", seen, judged), out, "--replay", "--set", "eval_steps=1")
        assert done["rounds"] == number
        assert (done["replayed"] > 0) == (number > 1)
    assert not (out / "rounds" / "0001" / "replay").exists()
    third = out / "rounds" / "0003"
    stored = {
        n: {e.meta["item_id"] for e in read_split(out / "rounds" / n / "data", "train")} for n in ("0001", "0002")
    }
    replayed = read_split(third / "replay", "train")
    by_round = Counter(example.meta["night"] for example in replayed)
    assert by_round["0001"] == by_round["0002"] == done["replayed"] / 2
    # No row twice, as long as there are others.
    assert len({example.meta["item_id"] for example in replayed}) == len(replayed) >= 20
    assert all(example.meta["item_id"] in stored[example.meta["night"]] for example in replayed)
    config = (third / "run" / "config.yaml").read_text()
    assert "balance_batches: true" in config
    assert "keep_best_by: worst" in config
    # Each validation row counts once, for the round that brought it.
    parts = of_kind(read_events(third / "run" / "metrics.jsonl"), Evaluation)[-1].losses
    assert list(parts) == [str(third / "data"), "0001", "0002"]
    rows = Counter(e.meta["night"] for e in read_split(third / "replay", "valid"))
    assert (rows, len(read_split(third / "data", "valid"))) == ({"0001": 3, "0002": 2}, 4)
    warnings = of_kind(read_events(third / "run" / "metrics.jsonl"), TrainingWarning)
    assert not any("earlier" in warning.message for warning in warnings)


@pytest.mark.slow
def test_an_epoch_is_still_each_new_example_once(dataset, increment, tmp_path):
    out = tmp_path / "live"
    epochs = ("--replay", "--set", "num_epochs=2", "--set", "max_steps=null", "--set", "batch_size=5")
    increment(dataset("one", chats(range(40))), out, *epochs)
    done = increment(dataset("two", chats(range(50))), out, *epochs)
    # Ten new ones in half of the places of eight steps of five: each of them twice.
    assert (done["steps"], done["replayed"]) == (8, 20)


@pytest.mark.slow
def test_without_replay_the_second_round_says_what_it_costs(command, dataset, increment, tmp_path):
    out = tmp_path / "live"
    first = increment(dataset("one", chats(range(12))), out)
    assert first["replayed"] == 0
    arguments = ("train", "--increment", *SETTINGS, "--data", dataset("two", chats(range(24))), "--out", out)
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert said.count("unlearns what earlier ones taught") == 1
    for number, told in (("0001", 0), ("0002", 1)):
        warnings = of_kind(read_events(out / "rounds" / number / "run" / "metrics.jsonl"), TrainingWarning)
        assert sum("--replay" in warning.message for warning in warnings) == told


@pytest.mark.slow
def test_rows_on_both_sides_are_replayed_on_neither(dataset, increment, tmp_path):
    """A source that splits anew each day: yesterday's training rows judge today, and the other way round."""
    out = tmp_path / "live"
    increment(dataset("one", chats(range(14)), chats(range(50, 53))), out, "--replay")
    new = [*chats(range(20, 30)), *chats(range(50, 52))]
    second = increment(dataset("two", new, chats(range(4))), out, "--replay")
    assert second["rounds"] == 2
    place = out / "rounds" / "0002" / "replay"
    assert {e.meta["item_id"] for e in read_split(place, "train")} <= {f"shape-{i}" for i in range(4, 14)}
    assert [e.meta["item_id"] for e in read_split(place, "valid")] == ["shape-52"]


@pytest.mark.slow
def test_a_round_whose_data_is_gone(refused, dataset, increment, tmp_path):
    out = tmp_path / "live"
    for number in (1, 2):
        increment(dataset(f"day-{number}", chats(range(12 * number))), out)
    shutil.rmtree(out / "rounds" / "0001" / "data")
    third = dataset("day-3", chats(range(36)))
    increment(third, out, "--replay")
    events = read_events(out / "rounds" / "0003" / "run" / "metrics.jsonl")
    assert "(0001) is gone" in of_kind(events, TrainingWarning)[0].message
    for number in (2, 3):
        shutil.rmtree(out / "rounds" / f"000{number}" / "data")
    fourth = dataset("day-4", chats(range(48)))
    arguments = ("train", "--increment", *SETTINGS, "--data", fourth, "--out", out)
    assert "no earlier round has a row here" in refused(*arguments, "--replay")
    assert increment(fourth, out)["rounds"] == 4


def test_replay_is_an_increment(dataset, tmp_path, command):
    data = dataset("one", chats(range(12)))
    done = command("train", *SETTINGS, "--replay", "--data", data, "--out", tmp_path / "a", "--json")
    assert json.loads(done.stdout)["rounds"] == 1


def round_killed_at(where, out, data):
    arguments = [
        "train",
        "--increment",
        "--replay",
        *SETTINGS,
        "--set",
        "lora_dropout=0.1",
        "--data",
        data,
        "--out",
        out,
    ]
    done = subprocess.run(
        [sys.executable, str(KILLED), where, *map(str, (out, *arguments, "--json"))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode != 0


@pytest.mark.parametrize(
    "moments",
    [
        (".replay.",),
        pytest.param((".data.", ".replay.", "step-", "manifest", "increment.json"), marks=pytest.mark.slow),
    ],
)
def test_a_kill_changes_nothing(dataset, increment, tmp_path, moments):
    one, two = (
        dataset("one", chats(range(12)), chats(range(3), "held")),
        dataset("two", chats(range(26)), chats(range(5), "held")),
    )
    for name in ("undisturbed", "killed"):
        increment(one, tmp_path / name, "--set", "lora_dropout=0.1", "--replay")
    increment(two, tmp_path / "undisturbed", "--set", "lora_dropout=0.1", "--replay")
    for moment in moments:
        assert round_killed_at(moment, tmp_path / "killed", two), moment
    assert not round_killed_at("0", tmp_path / "killed", two)
    first, second = (load_file(tmp_path / name / "adapters.safetensors") for name in ("undisturbed", "killed"))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


# Two new shapes of trajectories in every round.
ROUNDS = (
    ("settled_presence", "rising_entropy"),
    ("falling_energy", "basin_transition_down"),
    ("void_rising", "convergence"),
)
LEARN = ("--config", "quickstart", "--set", "batch_size=8", "--set", "max_steps=60", "--set", "eval_steps=20")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The dataset of each round, its test split for the coherence."""
    from mlx_lora.sources.eisv import make_eisv_dataset

    place = tmp_path_factory.mktemp("shapes")
    make_eisv_dataset(place / "all", min_per_shape=60)
    rows = {split: read_split(place / "all", split) for split in ("train", "valid", "test")}
    for number, names in enumerate(ROUNDS, 1):
        splits = {split: [e for e in found if e.meta["shape"] in names] for split, found in rows.items()}
        for split, found in splits.items():
            for i, example in enumerate(found):
                example.meta["item_id"] = f"{number}-{split}-{i}"
        write_dataset(place / str(number), splits, {"source": "hand"})
    return place


def coherence(adapter, data):
    from mlx_lora.evaluation.suite import Generation
    from mlx_lora.evaluation.targets.opening import load_target
    from mlx_lora.sources.eisv import expression_trajectory_coherence, parse_model_output, validate_output

    rows, target = [*read_split(data, "valid"), *read_split(data, "test")], load_target(str(adapter), "auto")
    replies = target.answer([row.messages[:-1] for row in rows], [""] * len(rows), Generation(max_tokens=60))
    parsed = [parse_model_output(reply.text or "") for reply in replies]
    return mean(
        expression_trajectory_coherence(row.meta["shape"], each.eisv_tokens) if validate_output(each) else 0.0
        for row, each in zip(rows, parsed, strict=True)
    )


@pytest.mark.slow
def test_replay_keeps_what_was_learned_first(command, shapes, tmp_path):
    def learn(number, out, *more):
        done = command("train", "--increment", *LEARN, *more, "--data", shapes / str(number), "--out", out, "--json")
        assert done.returncode == 0, done.stderr

    learn(1, tmp_path / "alone")
    # There is nothing to replay in the first round.
    shutil.copytree(tmp_path / "alone", tmp_path / "replay", symlinks=True)
    for number in (2, 3):
        learn(number, tmp_path / "alone")
        learn(number, tmp_path / "replay", "--replay")
    first, last = shapes / "1", shapes / "3"
    kept, lost = coherence(tmp_path / "replay", first), coherence(tmp_path / "alone", first)
    print(f"coherence of the first round after the third: {kept:.3f} with replay, {lost:.3f} without")
    assert kept >= 0.9
    assert lost < 0.85
    assert min(coherence(tmp_path / name, last) for name in ("replay", "alone")) >= 0.9
