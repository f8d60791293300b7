"""`train --increment`: each round takes what is new, starts from the last adapter, and counts only when complete."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_lora.data.dataset import Example, write_dataset

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


def test_an_adapter_of_another_shape_cannot_be_started_from(command, refused, dataset, tmp_path):
    data = dataset("one", range(12))
    command("train", *SETTINGS, "--data", data, "--out", tmp_path / "a")
    start = f"init_adapter={tmp_path / 'a'}"
    rank = ("--set", start, "--set", "lora_rank=8")
    sentence = refused("train", *SETTINGS, *rank, "--data", data, "--out", tmp_path / "b")
    assert "its lora_parameters differs" in sentence
    assert not (tmp_path / "b").exists()
