"""Incremental training's state: what is new, what a round took, what it learned."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lora.data.dataset import Example
from mlx_lora.errors import UserError
from mlx_lora.runs.incremental_state import (
    IncrementState,
    Round,
    abandon_round,
    finish_round,
    item_id,
    new_examples,
    read_state,
    start_round,
    state_path,
    too_few,
    write_state,
)


def example(identity, created_at="2026-01-01T00:00:00Z", key="item_id"):
    return Example([{"role": "assistant", "content": identity}], meta={key: identity, "created_at": created_at})


def many(count, start=0):
    return [example(f"i{n}", f"2026-01-01T00:{n:02}:00Z") for n in range(start, start + count)]


def test_rounds_follow_each_other(tmp_path):
    path = state_path(tmp_path)
    assert read_state(path) == IncrementState()
    first = start_round(path, many(12))
    assert isinstance(first, Round)
    assert (len(first.examples), first.resumed) == (12, False)
    # Three more appear while it trains: they belong to the next round.
    state = finish_round(path, many(15))
    assert (len(state.trained), state.newest, state.rounds) == (12, ("2026-01-01T00:11:00Z", "i11"), 1)
    assert read_state(path) == state
    assert [item_id(e) for e in new_examples(many(15), state)] == ["i12", "i13", "i14"]
    assert start_round(path, many(15)) == (
        "3 new of the 10 that a round needs: nothing to train on yet, the adapter stays as it is"
    )
    assert isinstance(start_round(path, many(15), minimum=3), Round)
    assert finish_round(path, many(15)).rounds == 2
    assert finish_round(path, many(15)).rounds == 2


def test_an_interrupted_round_goes_on_with_the_same_examples(tmp_path):
    path = tmp_path / "state.json"
    start_round(path, many(10))
    again = start_round(path, many(14))
    assert again.resumed
    assert [item_id(e) for e in again.examples] == [f"i{n}" for n in range(10)]
    abandon_round(path)
    assert len(start_round(path, many(14)).examples) == 14
    # The dataset lost some of them: no half of a round is trained.
    assert not start_round(path, many(11)).resumed
    assert len(read_state(path).pending) == 11
    assert isinstance(start_round(path, many(2)), str)
    assert read_state(path).pending == []


def test_late_items_are_new_and_newest_goes_by_time(tmp_path):
    path = tmp_path / "state.json"
    start_round(path, [example("z", "2026-01-01T10:00:00+02:00"), example("y", "2026-01-01T09:00:00")], 1)
    assert finish_round(
        path, [example("z", "2026-01-01T10:00:00+02:00"), example("y", "2026-01-01T09:00:00")]
    ).newest == (
        "2026-01-01T09:00:00",
        "y",
    )
    late = [example("older", "2025-01-01T00:00:00")]
    assert new_examples(late, read_state(path)) == late
    start_round(path, late, 1)
    assert finish_round(path, late).newest == ("2026-01-01T09:00:00", "y")


def test_experiences_and_several_examples_of_one_item(tmp_path):
    path = tmp_path / "state.json"
    rows = [example(f"e{n // 2}", key="experience_id") for n in range(8)]
    assert isinstance(start_round(path, rows, minimum=5), str)
    assert len(start_round(path, rows, minimum=4).examples) == 8
    assert finish_round(path, rows).trained == {"e0", "e1", "e2", "e3"}


def test_items_without_a_time_are_marked(tmp_path):
    path = tmp_path / "state.json"
    rows = [Example([], meta={"item_id": "a"}), Example([], meta={"item_id": "b", "timestamp": 3.5})]
    start_round(path, rows, 1)
    state = finish_round(path, rows)
    assert (state.trained, state.newest) == ({"a", "b"}, ("3.5", "b"))


@pytest.mark.parametrize("meta", [{}, {"item_id": ""}, {"item_id": 3}])
def test_examples_without_an_id_are_named(meta):
    with pytest.raises(UserError, match="example 2 has no item_id or experience_id"):
        new_examples([example("a"), Example([], meta=meta)], IncrementState())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "\xff",
        '{"trained": [1], "newest": null, "pending": [], "rounds": 0}',
        '{"trained": ["a"], "newest": ["x"], "pending": [], "rounds": 0}',
        '{"trained": ["a"], "newest": null, "pending": [], "rounds": "one"}',
        '{"trained": null, "newest": null, "pending": [], "rounds": 0}',
        "[" * 100_000,
    ],
)
def test_a_broken_state_is_one_sentence(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"state\.json: this is not a state"):
        start_round(path, many(12))
    assert path.read_bytes() == content.encode("latin-1")


def test_the_state_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "state.json"
    write_state(path, IncrementState({"b", "a"}, ("t", "b"), ["c"], 3))
    assert json.loads(path.read_text()) == {
        "format": 1,
        "trained": ["a", "b"],
        "newest": ["t", "b"],
        "pending": ["c"],
        "rounds": 3,
    }
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError):
        write_state(tmp_path / "absent" / "state.json", IncrementState())


def test_too_few():
    assert too_few(many(10)) is None
    assert too_few([], minimum=0).startswith("0 new")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), max_size=12), max_size=6), st.integers(1, 5))
def test_every_item_is_trained_on_once(tmp_path_factory, arrivals, minimum):
    path = tmp_path_factory.mktemp("run") / "state.json"
    here, trained = {}, []
    for arriving in arrivals:
        here |= {n: example(f"i{n}") for n in arriving}
        started = start_round(path, list(here.values()), minimum)
        if isinstance(started, Round):
            trained += [item_id(e) for e in started.examples]
            finish_round(path, list(here.values()))
    assert len(trained) == len(set(trained))
    assert read_state(path).trained == set(trained)
    assert len(here) - len(trained) < minimum
