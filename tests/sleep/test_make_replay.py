"""Replay of a night: own answers only where they pass, a share always as stored, a bounded part of the loss."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mlx_lora.data.dataset import Example, Span, data_hash, read_split, write_dataset
from mlx_lora.errors import UserError
from mlx_lora.evaluation.cases import Case
from mlx_lora.evaluation.scorers import CheckSpec, Score, make_scorer
from mlx_lora.models.resolve import resolve_model
from mlx_lora.models.tokenizer import open_tokenizer
from mlx_lora.sleep.config import ReplayConfig
from mlx_lora.sleep.replay import GROUP, make_replay
from mlx_lora.sleep.stores.curate import learnable


def row(night, number, store="lumen", weight=1.0, **more):
    messages = [{"role": "user", "content": f"{night} {number}"}, {"role": "assistant", "content": "stored answer"}]
    return Example(messages, weight, {"sleep_store": store, "sleep_id": f"{night}-{number}"}, **more)


def words(example):
    return len(example.messages[-1]["content"].split())


@pytest.fixture
def nights(tmp_path):
    """Two nights, the second with few rows."""
    found = {}
    for key, count in (("0001", 40), ("0002", 12)):
        write_dataset(tmp_path / key, {"train": [row(key, i) for i in range(count)]}, {"source": "hand"})
        found[key] = tmp_path / key
    return found


NEW = [row("0003", i) for i in range(20)]
CHECK = {"lumen": lambda example, text: Score("good" in text)}
make = partial(make_replay, new=NEW, config=ReplayConfig(), seed=1, checks=CHECK, tokens=words, size=20)


def good(conversations):
    return [f"good {conversation[-1]['content']}" for conversation in conversations]


def part_of_own(replay, new=NEW, share=0.5):
    """Return the share of the loss that own answers carry, over very many batches drawn as training draws them."""
    rng = np.random.default_rng(0)
    from_replay = rng.integers(len(replay.examples), size=round(40_000 * share))
    from_new = rng.integers(len(new), size=40_000 - len(from_replay))
    drawn = [replay.examples[i] for i in from_replay] + [new[i] for i in from_new]
    loss = [(e.weight * words(e), bool(e.meta.get("own_answer"))) for e in drawn]
    return sum(part for part, own in loss if own) / sum(part for part, _ in loss)


def test_own_answers_where_they_pass_and_a_quarter_as_stored(nights):
    replay = make(nights, answer=good)
    assert replay.counts["nights"] == {"0001": 10, "0002": 10}
    assert (replay.counts["own"], replay.counts["stored"], replay.counts["gold"]) == (15, 5, 5)
    stored = {example.meta["sleep_id"]: example for path in nights.values() for example in read_split(path, "train")}
    for example in replay.examples:
        before = stored[example.meta["sleep_id"]]
        assert example.meta["night"] in example.meta["sleep_id"]
        assert example.messages[:-1] == before.messages[:-1]
        if example.meta.get("own_answer"):
            assert example.messages[-1]["content"] == f"good {example.messages[0]['content']}"
        else:
            assert (example.messages, example.weight) == (before.messages, before.weight)
    # Each night keeps stored rows.
    kept = Counter(e.meta["night"] for e in replay.examples if not e.meta.get("own_answer"))
    assert min(kept["0001"], kept["0002"]) >= 2
    assert make(nights, answer=good) == replay
    assert make(nights, answer=good, seed=2).examples != replay.examples


def test_an_answer_that_fails_its_check_is_the_stored_one(nights):
    replay = make(nights, answer=lambda chats: [f"{'good' if '1' in c[-1]['content'][5:] else 'bad'} x" for c in chats])
    assert 0 < replay.counts["own"] < 15
    assert replay.counts["own"] + replay.counts["stored"] == 20
    for example in replay.examples:
        said = example.messages[-1]["content"]
        assert said == ("good x" if example.meta.get("own_answer") else "stored answer")
    assert (
        make(nights, answer=lambda chats: [" "] * len(chats), checks={"lumen": lambda e, t: Score(True)}).counts["own"]
        == 0
    )


def test_the_real_check_of_a_source_decides(tmp_path, eisv_data):
    stored = [replace(e, meta={**e.meta, "sleep_store": "eisv"}) for e in read_split(eisv_data, "train")]
    write_dataset(tmp_path / "night", {"train": stored}, {"source": "hand"})
    scorer = make_scorer(CheckSpec("expression_coherence", {"above": 0.93}, "here"), None, Path())

    def check(example, text):
        return scorer(Case("1", example.messages[:-1], meta=example.meta), text)

    by_prompt = {e.messages[-2]["content"]: e.messages[-1]["content"] for e in stored}
    every_other = {prompt: number % 2 for number, prompt in enumerate(by_prompt)}

    def answer(chats):
        asked = [chat[-1]["content"] for chat in chats]
        return [by_prompt[prompt] if every_other[prompt] else "warm warm warm" for prompt in asked]

    replay = make({"0001": tmp_path / "night"}, checks={"eisv": check}, answer=answer, size=len(stored))
    own = [e for e in replay.examples if e.meta.get("own_answer")]
    assert 0.2 * len(stored) < len(own) < 0.6 * len(stored)
    assert all(every_other[e.messages[-2]["content"]] for e in own)
    assert not any("warm warm warm" in e.messages[-1]["content"] for e in replay.examples)


@pytest.mark.parametrize("bound", [0.1, 0.38, 1.0])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_own_answers_carry_a_bounded_part_of_the_loss(nights, bound, share):
    """Long own answers beside short new rows, with weights: the batches themselves are counted."""

    def long(chats):
        return ["good " * 9 for _ in chats]

    new = [row("0003", i, weight=0.5 + i % 3) for i in range(20)]
    config = ReplayConfig(share=share, own_loss=bound)
    replay = make(nights, new=new, config=config, answer=long)
    assert replay.counts["own"] == 15
    assert replay.counts["own_loss"] <= bound + 1e-12
    assert part_of_own(replay, new, share) == pytest.approx(replay.counts["own_loss"], abs=0.02)
    weights = {e.weight for e in replay.examples if e.meta.get("own_answer")}
    assert len(weights) == 1
    if replay.counts["own_loss"] < bound - 1e-9:
        assert weights == {1.0}


def test_no_own_answers_at_all(nights):
    def never(chats):
        raise AssertionError("nobody is asked")

    for config, checks, answer in (
        (ReplayConfig(source="gold"), CHECK, never),
        (ReplayConfig(gold=1.0), CHECK, never),
        (ReplayConfig(own_loss=0.0), CHECK, never),
        (ReplayConfig(), {"another store": CHECK["lumen"]}, never),
        (ReplayConfig(), CHECK, None),
    ):
        replay = make(nights, config=config, checks=checks, answer=answer)
        assert (replay.counts["own"], replay.counts["stored"], replay.counts["own_loss"]) == (0, 20, 0.0)
        assert all(e.messages[-1]["content"] == "stored answer" and e.weight == 1 for e in replay.examples)
    # Without any other row in the batch own answers would be all of the loss.
    alone = make(nights, new=[], config=ReplayConfig(gold=0.0), answer=good)
    assert (alone.counts["own"], alone.counts["own_loss"]) == (0, 0.0)
    assert make({}, answer=never).examples == []
    assert make(nights, answer=never, size=0).counts["nights"] == {}


def test_rows_whose_answer_is_no_plain_text_stay_as_stored(tmp_path):
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
    }
    ask = {"role": "user", "content": "x"}
    meta = {"sleep_store": "lumen"}
    stored = [
        Example([ask, call], meta=meta),
        Example([ask, {"role": "assistant", "content": "no end", "open_end": True}], meta=meta),
        Example([ask, {"role": "assistant", "content": "weighed", "weight": 0.5}], meta=meta),
        Example(
            [ask, {"role": "assistant", "content": "a tool"}],
            meta=meta,
            tools=[{"type": "function", "function": {"name": "f"}}],
        ),
        row("0001", 1, spans=[Span(1, 0, 6, 3.0)]),
    ]
    write_dataset(tmp_path / "0001", {"train": stored}, {"source": "hand"})
    replay = make({"0001": tmp_path / "0001"}, answer=good, config=ReplayConfig(gold=0.0), size=5)
    own = [e for e in replay.examples if e.meta.get("own_answer")]
    assert [(e.messages[-1]["content"], e.spans) for e in own] == [("good 0001 1", [])]


def test_conversations_are_asked_in_groups_and_once(tmp_path):
    write_dataset(tmp_path / "0001", {"train": [row("0001", i) for i in range(70)]}, {"source": "hand"})
    asked = []

    def answer(chats):
        asked.append([chat[-1]["content"] for chat in chats])
        return good(chats)

    replay = make({"0001": tmp_path / "0001"}, answer=answer, config=ReplayConfig(gold=0.0), size=140)
    assert [len(group) for group in asked] == [GROUP, GROUP, 6]
    assert len({prompt for group in asked for prompt in group}) == 70
    assert replay.counts["own"] == 140


def test_an_answer_that_does_not_fit_is_the_stored_one(nights):
    def tokens(example):
        if "good" in example.messages[-1]["content"]:
            raise UserError("the answer takes 900 tokens and max_seq_length is 512")
        return 2

    assert make(nights, answer=good, tokens=tokens).counts["own"] == 0


def test_own_answers_never_enter_a_nights_stored_data(nights):
    before = {path: data_hash(path / "train.jsonl") for path in nights.values()}
    replay = make(nights, answer=good)
    assert {path: data_hash(path / "train.jsonl") for path in nights.values()} == before
    # Were a mixed dataset given as a night, its own answers would be nobody's gold.
    place = nights["0001"].parent / "0003"
    write_dataset(place, {"train": replay.examples}, {"source": "hand"})
    again = make({"0003": place}, answer=None, size=40)
    assert Counter(e.messages[-1]["content"] for e in again.examples) == {"stored answer": 40}


def test_a_night_that_is_gone_is_a_sentence(nights):
    with pytest.raises(UserError, match="there is no such dataset"):
        make({**nights, "0009": Path("/nowhere/0009")}, answer=good)


def test_an_own_answer_that_would_stop_training_stays_as_stored(nights):
    tokenizer = open_tokenizer(resolve_model("builtin/tiny-lumen"))

    def answer(conversations):
        return [f"good{'<|eot_id|>' if number % 2 else ''} {number}" for number in range(len(conversations))]

    replay = make(nights, answer=answer, usable=lambda examples: learnable(examples, tokenizer, 512))
    own = [example for example in replay.examples if example.meta.get("own_answer")]
    assert 0 < len(own) < 15
    assert not any("<|" in example.messages[-1]["content"] for example in own)
    assert replay.counts["own"] + replay.counts["stored"] == 20
