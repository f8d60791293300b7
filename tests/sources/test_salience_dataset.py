"""From buffers to a dataset and to token ids, and the commands as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from experiences import exchange

from mlx_lora.data.dataset import read_split
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.sources.salience import (
    DEFAULT_SYSTEM_PROMPT,
    RaisingTrainingDataBuilder,
    create_training_dataset_from_buffer,
    experience_id,
    load_training_set,
    make_salience_dataset,
)

TINY = str(BUILT_IN["builtin/tiny-lumen"])


@pytest.fixture
def buffer(tmp_path):
    def make(rows, name="buffer.json"):
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return path

    return make


def test_a_dataset_of_salient_experiences(tmp_path, buffer):
    rows = [exchange(i, 0.5 + i / 250) for i in range(100)]
    rows[3]["metadata"] = {"using_lora": True, "model": "tiny", "other": 1}
    path = buffer(rows)
    before = path.read_bytes()
    card = make_salience_dataset(tmp_path / "d", [path, path], min_salience=0.504)
    assert path.read_bytes() == before
    assert card["counts"] == {"read": 200, "distinct": 100, "salient": 99, "examples": 99}
    examples = [e for split in ("train", "valid", "test") for e in read_split(tmp_path / "d", split)]
    assert sum(e.weight for e in examples) / 99 == pytest.approx(1)
    assert max(e.weight for e in examples) == pytest.approx(0.896 / card["average_salience"])
    assert [m["role"] for m in examples[0].messages] == ["system", "user", "assistant"]
    assert examples[0].messages[0]["content"] == DEFAULT_SYSTEM_PROMPT
    (marked,) = [e.meta for e in examples if "using_lora" in e.meta]
    assert marked["buffer"] == str(path)
    assert (marked["model"], marked["phase"], "other" in marked) == ("tiny", "x", False)
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert report["left_out"][0] == {**report["left_out"][0], "reason": "the same experience again", "count": 100}
    assert {item["reason"] for item in report["left_out"]} == {"the same experience again", "salience below 0.504"}
    assert any("1 of the 99 examples were written with an adapter" in note for note in report["notes"])
    prompts = [{e.messages[1]["content"] for e in read_split(tmp_path / "d", s)} for s in ("train", "valid", "test")]
    assert all(prompts)
    assert not prompts[0] & (prompts[1] | prompts[2])


def test_no_prompt_makes_more_than_a_tenth(tmp_path, buffer):
    rows = [exchange(i, 0.9, prompt=f"Hello, session {i}!" if i % 2 else None) for i in range(120)]
    card = make_salience_dataset(tmp_path / "d", [buffer(rows)], max_examples=40)
    train = read_split(tmp_path / "d", "train")
    of_one = sum(e.messages[1]["content"].startswith("Hello") for e in train)
    assert 0 < of_one <= 0.1 * len(train)
    assert card["counts"]["examples"] <= 40
    reasons = {item["reason"]: item["count"] for item in card["report"]["left_out"]}
    assert sum(reasons.values()) == 120 - card["counts"]["examples"]
    assert "not among the 40 most salient" in reasons


def test_weights_rescoring_and_few_examples(tmp_path, buffer):
    path = buffer([exchange(i, 0.5 + i / 100, prompt="Always the same?") for i in range(4)])
    for weights, expected in (("raw", {0.5, 0.51, 0.52, 0.53}), ("equal", {1.0})):
        card = make_salience_dataset(tmp_path / weights, [path], weights=weights)
        assert {e.weight for e in read_split(tmp_path / weights, "train")} == expected
        assert card["splits"] == {"train": 4, "valid": 0, "test": 0}
    assert any("4 examples are few" in note for note in card["report"]["notes"])
    rescored = make_salience_dataset(tmp_path / "r", [path], min_salience=0, rescore="word")
    assert rescored["rescored"] == "word"
    assert {e.meta["salience"] for e in read_split(tmp_path / "r", "train")}.isdisjoint({0.5, 0.51, 0.52, 0.53})


def test_nothing_to_learn_from(tmp_path, buffer):
    with pytest.raises(UserError, match=r"all 1 experiences were left out \(1 salience below 0.9\)"):
        make_salience_dataset(tmp_path / "d", [buffer([exchange(1)])], min_salience=0.9)
    with pytest.raises(UserError, match="no experiences in it"):
        make_salience_dataset(tmp_path / "d", [buffer([])])
    assert not (tmp_path / "d").exists()


def test_tokens_of_the_real_first_two(realdata):
    """238 and 237 tokens, as published; our own system prompt is as long as the published one, 64 tokens."""
    tokenizer = str(realdata / "tokenizers" / "qwen2.5")
    builder = RaisingTrainingDataBuilder(realdata / "salience" / "first_two.json", tokenizer)
    assert len(builder.tokenizer.encode(DEFAULT_SYSTEM_PROMPT)) == 64
    training_set = builder.build_training_set()
    assert [len(example["input_ids"]) for example in training_set] == [238, 237]
    stats = builder.get_stats(training_set)
    assert stats["avg_salience"] == pytest.approx(0.70444, abs=1e-5)
    breakdown = {"surprise": 1.0, "novelty": 1.0, "arousal": 0.5556, "reward": 0.55, "conflict": 0.41667}
    assert stats["salience_breakdown"] == pytest.approx(breakdown, abs=5e-5)
    assert stats["session_distribution"] == {22: 2}
    (batch,) = builder.prepare_batch(training_set, 2)
    assert batch["input_ids"].shape == (2, 238)
    assert (batch["input_ids"][1, -1], batch["labels"][1, -1]) == (builder.tokenizer.pad_token_id, -100)
    answer = training_set[0]["labels"]
    text = builder.tokenizer.decode(answer[answer != -100])
    assert text == builder.experiences[0]["response"] + "<|im_end|>"


def test_the_builder(tmp_path, buffer):
    totals = (0.6, 0.9, 0.6, 0.3)
    path = buffer([exchange(i, total) for i, total in enumerate(totals)])
    builder = RaisingTrainingDataBuilder(path, TINY, "Be brief.")
    training_set = builder.build_training_set()
    assert [e["experience_id"] for e in training_set] == [builder.experiences[i]["id"] for i in (1, 0, 2)]
    assert len(builder.build_training_set(0.5, max_examples=2)) == 2
    first = training_set[0]
    assert (first["salience"], first["session"], first["phase"]) == (0.9, 1, "x")
    assert first["text"].count("Be brief.") == 1
    batches = builder.prepare_batch(training_set, 2)
    assert [len(batch["salience"]) for batch in batches] == [2, 1]
    assert batches[0]["attention_mask"].sum(axis=1).tolist() == [len(e["input_ids"]) for e in training_set[:2]]
    assert builder.get_stats([]) == {"num_examples": 0, "avg_salience": 0.0, "avg_length_tokens": 0.0}
    without = builder.build_example(builder.experiences[0], include_system=False)
    assert len(without["input_ids"]) < len(training_set[1]["input_ids"])
    whole = RaisingTrainingDataBuilder(path, TINY, train_on_prompt=True).build_training_set()
    assert all((e["labels"] == e["input_ids"]).all() for e in whole)

    builder.save_training_set(training_set, tmp_path / "sets" / "s.json")
    loaded = load_training_set(tmp_path / "sets" / "s.json")
    for a, b in zip(loaded, training_set, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[key], b[key]) for key in a)
    assert builder.get_stats(loaded) == builder.get_stats(training_set)
    with pytest.raises(UserError, match=r"ends in \.json"):
        builder.save_training_set(training_set, tmp_path / "s.pt")
    with pytest.raises(UserError, match="not a training set"):
        builder.load_training_set(path)


def test_the_builder_refuses(tmp_path, buffer):
    with pytest.raises(UserError, match="no such file"):
        RaisingTrainingDataBuilder(tmp_path / "absent.json")
    builder = RaisingTrainingDataBuilder(buffer([exchange(1)]), str(tmp_path))
    with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
        builder.build_training_set()
    assert create_training_dataset_from_buffer(buffer([]))["stats"]["num_examples"] == 0


def test_importing_the_source_loads_nothing_heavy():
    code = (
        "import sys, mlx_lora.sources.salience; print({'numpy', 'mlx', 'transformers', 'torch'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.slow
def test_ten_thousand_experiences_in_seconds(tmp_path, buffer):
    """A tenth of what must take less than 30 seconds, on a machine that may be busy."""
    chance = np.random.default_rng(5)
    vocabulary = np.array([f"word{i}" for i in range(3000)])
    rows = [exchange(i % 256, 0.7) for i in range(10_000)]
    for row, lengths in zip(rows, chance.integers(30, 90, len(rows)), strict=True):
        row["response"] = " ".join(chance.choice(vocabulary, lengths)) + "."
        row["id"] = experience_id(row["prompt"], row["response"])
    start = time.process_time()
    card = make_salience_dataset(tmp_path / "d", [buffer(rows)])
    assert time.process_time() - start < 6
    assert card["counts"]["distinct"] == 10_000


def test_the_commands(command, tmp_path):
    def run(*arguments, **more):
        done = command(*arguments, "--json", cwd=tmp_path, **more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    said = "We found it together, specifically our own way. I notice that I feel curious. Shall we go on? And you?"
    result = run("experience", "add", "--buffer", "b.json", "--prompt", "What now?", "--response", said, "--session", 7)
    assert (result["stored"], result["buffer"]) == (True, "b.json")
    more = {"prompt": "And then?", "response": "Our river, precisely, was wide. Do we understand? I sense it. Why?"}
    lines = json.dumps({**more, "phase": "x"}) + "\n" + json.dumps({"prompt": "What now?", "response": said}) + "\n"
    results = run("experience", "add", "--buffer", "b.json", "-", input=lines)
    assert results["stored"] == 1
    assert results["results"][1]["filter_reason"] == "already_stored"
    assert run("experience", "stats", "--buffer", "b.json")["total_experiences"] == 2
    (tmp_path / "old.json").write_text(json.dumps([exchange(i) for i in range(40)]))
    merged = run("experience", "merge", "old.json", "--into", "b.json")
    assert (merged["added"], merged["already_there"]) == (40, 0)
    assert run("experience", "merge", "old.json", "--into", "b.json")["already_there"] == 40
    (tmp_path / "prompt.txt").write_text("You are Thor.\n")
    card = run("data", "salience", "--buffer", "b.json", "--out", "d", "--system-prompt", "prompt.txt")
    assert card["counts"]["examples"] == sum(card["splits"].values()) == 42
    assert card["report"]["source"] == "salience"
    assert read_split(tmp_path / "d", "train")[0].messages[0]["content"] == "You are Thor."
    told = command("data", "salience", "--buffer", "b.json", "--out", "e", "--min-salience", "0.65", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "salience below 0.65" in told.stdout


def test_what_the_commands_refuse(refused, tmp_path):
    buffer = tmp_path / "b.json"
    add = ("experience", "add", "--buffer", buffer)
    assert "has a prompt and a response" in refused(*add, "--prompt", "x")
    assert "line 2: this is not JSON" in refused(*add, "-", input='{"prompt": "p", "response": "r"}\n{"prom\n')
    assert "--metadata: this is not JSON" in refused(*add, "--prompt", "p", "--response", "r", "--metadata", "{")
    assert "session must be a whole number" in refused(
        *add, "-", input='{"prompt": "p", "response": "r", "session": "7"}'
    )
    assert not buffer.exists()
    buffer.write_text('[{"prompt": "p"')
    out = tmp_path / "d"
    for command_line in (
        (*add, "--prompt", "p", "--response", "r"),
        ("experience", "stats", "--buffer", buffer),
        ("experience", "merge", buffer, "--into", tmp_path / "c.json"),
        ("data", "salience", "--buffer", buffer, "--out", out),
    ):
        assert f"{buffer}, line 1: the JSON is broken or cut off" in refused(*command_line)
    assert not out.exists()
    assert "no such file; check --system-prompt" in refused(
        "data", "salience", "--buffer", buffer, "--out", out, "--system-prompt", tmp_path / "no.txt"
    )
