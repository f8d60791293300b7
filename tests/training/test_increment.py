"""`train --increment`: each round takes what is new, starts from the last adapter, and counts only when complete."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_lora.data.dataset import Example, write_dataset
from mlx_lora.runs.generations import Generations

SETTINGS = ("--config", "quickstart", "--set", "lora_rank=4", "--set", "max_steps=3", "--set", "batch_size=4")


@pytest.fixture
def dataset(tmp_path):
    """Make a dataset of items with the given numbers."""

    def make(name, numbers) -> str:
        chat = [
            Example(
                [{"role": "user", "content": f"shape {i}"}, {"role": "assistant", "content": f"answer {i}"}],
                meta={"item_id": f"item-{i}", "created_at": f"2026-01-01T00:{i:02d}:00Z"},
            )
            for i in numbers
        ]
        write_dataset(tmp_path / name, {"train": chat}, {"source": "hand"})
        return str(tmp_path / name)

    return make


def adapter(out):
    return load_file(out / "adapters.safetensors")


def test_rounds_go_on_from_each_other(command, dataset, tmp_path):
    out = tmp_path / "live"

    def train(data, *more):
        done = command("train", "--increment", *SETTINGS, "--data", data, "--out", out, "--json", *more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    one = train(dataset("one", range(12)))
    assert (one["rounds"], one["trained_items"]) == (1, 12)
    first = adapter(out)
    few = train(dataset("few", range(15)))
    assert few["trained"] is False
    assert few["reason"].startswith("3 new of the 10")
    assert {n: v.tobytes() for n, v in adapter(out).items()} == {n: v.tobytes() for n, v in first.items()}
    two = train(dataset("two", range(15)), "--min-new", "3")
    assert (two["rounds"], two["trained_items"]) == (2, 15)
    trained = (out / "rounds" / "0002" / "data" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["meta"]["item_id"] for line in trained] == ["item-12", "item-13", "item-14"]
    # Three small steps from the last adapter, not from a fresh one.
    second = adapter(out)
    moved = sum(np.linalg.norm(second[n] - first[n]) for n in first)
    assert 0 < moved < 0.5 * sum(np.linalg.norm(first[n]) for n in first)
    answer = command("generate", "--target", out, "--prompt", "shape 3", "--max-tokens", "3")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_an_interrupted_round_goes_on_and_is_marked_when_complete(command, dataset, tmp_path):
    out, data = tmp_path / "live", dataset("one", range(12))
    arguments = ("train", "--increment", *SETTINGS, "--data", data, "--out", out, "--json")
    assert command(*arguments, "--max-minutes", "0.0001").returncode == 0
    state = json.loads((out / "increment.json").read_text())
    assert (state["trained"], len(state["pending"])) == ([], 12)
    assert not (out / "adapters.safetensors").exists()
    done = json.loads(command(*arguments).stdout)
    assert (done["steps"], done["rounds"], done["trained_items"]) == (3, 1, 12)
    assert json.loads((out / "increment.json").read_text())["pending"] == []


def test_examples_without_an_id_are_refused(refused, eisv_data, tmp_path):
    sentence = refused("train", "--increment", *SETTINGS, "--data", eisv_data, "--out", tmp_path / "live")
    assert "example 1 has no item_id or experience_id" in sentence


@pytest.mark.slow
def test_an_adapter_of_another_shape_cannot_be_started_from(command, refused, dataset, tmp_path):
    data = dataset("one", range(12))
    command("train", *SETTINGS, "--data", data, "--out", tmp_path / "a")
    start = f"init_adapter={tmp_path / 'a'}"
    rank = ("--set", start, "--set", "lora_rank=8")
    sentence = refused("train", *SETTINGS, *rank, "--data", data, "--out", tmp_path / "b")
    assert "its lora_parameters differs" in sentence
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_rounds_and_nights_go_on_from_each_other(command, dataset, tmp_path):
    agent, data = Generations(tmp_path / "agent"), dataset("one", range(12))

    def train(*arguments):
        done = command("train", *SETTINGS, *arguments, "--json")
        assert done.returncode == 0, done.stderr

    def manifest(number):
        content = json.loads((agent.path(number) / "manifest.json").read_text())
        return content["parent"], content["round"], content["cycle"]

    train("--data", data, "--out", tmp_path / "night-1")
    agent.promote(agent.add(tmp_path / "night-1", {"cycle": "0001"}), "better")
    first = adapter(agent.directory)
    train("--increment", "--data", data, "--out", agent.directory)
    second = adapter(agent.directory)
    moved = sum(np.linalg.norm(second[n] - first[n]) for n in first)
    assert 0 < moved < 0.5 * sum(np.linalg.norm(first[n]) for n in first)
    start = f"init_adapter={agent.directory}@live"
    train("--data", data, "--out", tmp_path / "night-2", "--set", start, "--set", "seed=2")
    agent.promote(agent.add(tmp_path / "night-2", {"cycle": "0002"}), "better")
    agent.promote(2, "by hand")
    # A round starts from what is live, whatever was trained last.
    train("--increment", "--data", dataset("two", range(24)), "--out", agent.directory)
    assert [manifest(number) for number in agent.numbers()] == [
        (None, None, "0001"),
        (1, 1, None),
        (2, None, "0002"),
        (2, 2, None),
    ]
    assert [line["reason"] for line in agent.history() if line["event"] == "promoted"] == [
        "better",
        "round 1 of train --increment",
        "better",
        "by hand",
        "round 2 of train --increment",
    ]
    assert (agent.live, agent.previous) == (4, 2)


@pytest.mark.slow
def test_a_round_that_was_undone_before_it_was_marked_stays_undone(command, dataset, tmp_path):
    agent, data = Generations(tmp_path / "agent"), dataset("one", range(12))
    arguments = ("train", "--increment", *SETTINGS, "--data", data, "--out", agent.directory, "--json")
    assert command(*arguments).returncode == 0
    # As if the process had been killed after it had published.
    state = agent.directory / "increment.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "trained": [], "pending": content["trained"], "rounds": 0}))
    agent.rollback("worse in use")
    done = json.loads(command(*arguments).stdout)
    assert (done["rounds"], done["trained_items"]) == (1, 12)
    assert (agent.live, agent.numbers()) == (None, [1])


@pytest.mark.slow
def test_rounds_of_an_earlier_version_go_on(command, dataset, tmp_path):
    """Without refs and history, with the link alone; and of one before that, with no generations."""
    agent = Generations(tmp_path / "agent")

    def train(count):
        arguments = ("--data", dataset(f"of-{count}", range(count)), "--out", agent.directory)
        done = command("train", "--increment", *SETTINGS, *arguments, "--json")
        assert done.returncode == 0, done.stderr

    train(12)
    shutil.rmtree(agent.directory / "refs")
    (agent.directory / "history.jsonl").unlink()
    train(24)
    assert (agent.live, agent.previous, agent.numbers()) == (2, 1, [1, 2])
    assert [line["event"] for line in agent.history()] == ["adopted", "added", "promoted"]
    for name in ("adapters.safetensors", "adapter_config.json", "run.json", "report.html"):
        whole = (agent.directory / name).read_bytes()
        (agent.directory / name).unlink()
        (agent.directory / name).write_bytes(whole)
    for name in ("refs", "generations"):
        shutil.rmtree(agent.directory / name)
    for name in ("history.jsonl", "live"):
        (agent.directory / name).unlink()
    train(36)
    assert (agent.live, agent.previous, agent.numbers()) == (2, 1, [1, 2])
    assert (agent.directory / "adapters.safetensors").is_symlink()
