"""Gathering: all kinds of stores in one list, none of them changed, everything left out by name, bad stores named."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from experiences import exchange
from trace_stores import artifact, refined, write_store

from mlx_lora.data.dataset import Example, write_dataset
from mlx_lora.errors import UserError
from mlx_lora.sleep.config import StoreConfig
from mlx_lora.sleep.stores import reading as module
from mlx_lora.sleep.stores.reading import gather
from mlx_lora.sources.eisv import anima_db
from mlx_lora.sources.salience import pattern_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setattr(anima_db, "LOCK_TIMEOUT_S", 0.05)


experience = partial(exchange, total=0.7)


def store(kind: str, *paths, name: str | None = None, **options) -> StoreConfig:
    return StoreConfig(name or kind, kind, [str(path) for path in paths], options)


def example(question: str, answer: str, **meta) -> Example:
    return Example([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], meta=meta)


def walk(count, seed=1):
    rng, state, rows = random.Random(seed), [0.5] * 4, []
    for i in range(count):
        state = [min(1.0, max(0.0, value + rng.gauss(0, 0.03))) for value in state]
        rows.append((str(1_700_000_000 + 2 * i), *state))
    return rows


@pytest.fixture
def buffer(tmp_path):
    def make(rows, name="buffer.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return path

    return make


def accounted(gathered) -> None:
    """Check that each row that was read is used or named."""
    for about in gathered.stores:
        named = sum(len(one.rows) for one in gathered.left_out if one.store == about["store"])
        used = sum(row.store == about["store"] for row in gathered.rows)
        assert about["usable"] == used
        assert about["read"] == used + named, about


def test_every_kind_of_store_in_one_list(tmp_path, buffer, anima, realdata):
    experiences = buffer([experience(i) for i in range(20)] + [experience(30, total=0.2)])
    traces = refined(tmp_path / "traces")
    data = tmp_path / "data"
    write_dataset(data, {"train": [example(f"Where is number {i}?", f"At place {i}.") for i in range(5)]}, {})
    claims, instructions = realdata / "claims", realdata / "instructions"
    before = fingerprints(tmp_path)
    stores = [
        store("salience", experiences, min_salience=0.6),
        store("traces", traces, policy="all"),
        store("eisv", anima(walk(60))),
        store("claims", claims / "citint_claims_dev.jsonl", corpus=str(claims / "citint_corpus_dev.jsonl")),
        store("instructions", instructions / "style_core.jsonl"),
        store("data", data),
    ]
    before |= fingerprints(tmp_path)
    gathered = gather(stores, tmp_path / "night")
    assert {k: v for k, v in fingerprints(tmp_path).items() if not k.startswith("night")} == before
    accounted(gathered)
    usable = {about["store"]: about["usable"] for about in gathered.stores}
    assert usable == {"salience": 20, "traces": 3, "eisv": 11, "claims": 292, "instructions": 12, "data": 5}
    assert len({row.id for row in gathered.rows}) == len(gathered.rows)
    for row in gathered.rows:
        assert (row.example.meta["sleep_store"], row.example.meta["sleep_id"]) == (row.store, row.id)
    by_store = {row.store: row for row in reversed(gathered.rows)}
    first = by_store["salience"]
    assert first.id == first.example.meta["experience_id"]
    assert first.group == pattern_of(first.example.messages[1]["content"])
    assert {row.id for row in gathered.rows if row.store == "traces"} == {"a1", "a2", "a3"}
    assert by_store["traces"].group == by_store["traces"].example.meta["task"]
    assert len(by_store["eisv"].id) == len(by_store["data"].id) == 16
    low = next(one for one in gathered.left_out if one.reason == "salience below 0.6")
    assert [name.partition(":")[0] for name in low.rows] == [experience(30)["id"]]


def fingerprints(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(directory)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize(
    ("name", "usable", "trimmed"),
    [("twenty_four.json", 24, 16), ("after_removal.json", 141, 72), ("before_removal.json", 141, 72)],
)
def test_real_experiences_are_trimmed_and_named(realdata, tmp_path, name, usable, trimmed):
    file = realdata / "salience" / name
    gathered = gather([store("salience", file)], tmp_path / "night")
    accounted(gathered)
    assert gathered.stores[0]["read"] == len(json.loads(file.read_text()))
    assert gathered.stores[0]["usable"] == usable
    assert sum("trimmed" in row.example.meta for row in gathered.rows) == trimmed
    # No prompt is capped here: the night does that over all stores.
    assert not [one for one in gathered.left_out if "prompt" in one.reason and "too many" in one.reason]


def test_real_traces_each_artifact_counts(realdata, tmp_path):
    gathered = gather([store("traces", realdata / "traces", policy="all")], tmp_path / "night")
    accounted(gathered)
    assert gathered.stores[0]["usable"] == 31
    nothing = gather([store("traces", realdata / "traces" / "stores")], tmp_path / "other")
    accounted(nothing)
    assert nothing.rows == []
    assert "all would find 9" in nothing.stores[0]["notes"][0]


def identity(row) -> tuple[str, str]:
    return row.id, row.group


def said(row) -> str:
    return json.dumps(row.example.messages)


def test_a_database_that_grows_keeps_its_rows(anima, tmp_path):
    states = walk(120)
    first = gather([store("eisv", anima(states[:60], name="one.db"))], tmp_path / "one").rows
    later = gather([store("eisv", anima(states, name="two.db"))], tmp_path / "two").rows
    rest = gather([store("eisv", anima(states[5:], name="three.db"))], tmp_path / "three").rows
    ids, answers = ([{of(row) for row in rows} for rows in (first, later, rest)] for of in (identity, said))
    assert (len(first), len(later), len(rest)) == (11, 23, 22)
    assert ids[0] < ids[1]
    assert answers[0] < answers[1]
    # Where the oldest states are gone, the labels are drawn anew, and yet no trajectory is new.
    assert ids[2] < ids[1]
    assert not answers[2] < answers[1]


def test_a_row_of_two_stores_counts_once(tmp_path, buffer):
    one, two = buffer([experience(i) for i in range(5)]), buffer([experience(i) for i in range(3, 9)], "b.json")
    gathered = gather([store("salience", one, name="one"), store("salience", two, name="two")], tmp_path / "night")
    accounted(gathered)
    assert [about["usable"] for about in gathered.stores] == [5, 4]
    (twice,) = gathered.left_out
    assert (twice.store, twice.reason) == ("two", "the same row is in the store one already")
    assert {name.partition(":")[0] for name in twice.rows} == {experience(i)["id"] for i in (3, 4)}


def test_two_artifacts_with_one_id_are_two_rows(tmp_path):
    first = write_store(tmp_path / "one", [artifact("a1")])
    second = write_store(tmp_path / "two", [artifact("a1", content="another", workflow_id="w2")])
    gathered = gather([store("traces", first, second, policy="all")], tmp_path / "night")
    accounted(gathered)
    assert len({row.id for row in gathered.rows}) == len(gathered.rows) == 2


def test_an_earlier_try_of_the_night_is_replaced(tmp_path, buffer):
    path = buffer([experience(1)])
    assert len(gather([store("salience", path)], tmp_path / "night").rows) == 1
    buffer([experience(1), experience(2)])
    assert len(gather([store("salience", path)], tmp_path / "night").rows) == 2


@pytest.mark.parametrize("empty", ["[]", '{"experiences": [], "max_size": 9}', ""])
def test_an_empty_buffer_is_a_store_without_rows(tmp_path, empty):
    path = tmp_path / "buffer.json"
    path.write_text(empty)
    gathered = gather([store("salience", path)], tmp_path / "night")
    assert gathered.rows == []
    assert gathered.left_out == []
    assert gathered.stores[0]["notes"] == [f"there are no rows in it yet: {path}"]
    assert "failed" not in gathered.stores[0]


def test_stores_that_have_just_begun_have_no_rows(tmp_path, anima):
    begun = tmp_path / "traces"
    (begun / "fresh" / "objects").mkdir(parents=True)
    gathered = gather([store("traces", begun, policy="all"), store("eisv", anima(walk(4)))], tmp_path / "night")
    assert gathered.rows == []
    assert [about["read"] for about in gathered.stores] == [0, 0]
    refined(begun / "run")
    gathered = gather([store("traces", begun, policy="all")], tmp_path / "night")
    accounted(gathered)
    assert gathered.stores[0]["usable"] == 3


def test_where_all_rows_are_bad_all_are_named(tmp_path, buffer, anima):
    bad = buffer([{"prompt": "", "response": "x"}, 7, experience(1, response="Mm.")])
    objects = tmp_path / "traces" / "objects" / "ab"
    objects.mkdir(parents=True)
    (objects / "abc.json").write_text('{"artifact_id": "ab')
    states = [(str(1_700_000_000 + i), None, 0.5, 0.5, 0.5) for i in range(12)] + [("noon", 0.5, 0.5, 0.5, 0.5)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"messages": []}\nnot JSON\n')
    stores = [
        store("salience", bad),
        store("traces", tmp_path / "traces"),
        store("eisv", anima(states)),
        store("data", lines),
        store("instructions", lines),
    ]
    gathered = gather(stores, tmp_path / "night")
    accounted(gathered)
    assert gathered.rows == []
    assert {about["store"]: about["read"] for about in gathered.stores} == {
        "salience": 3,
        "traces": 1,
        "eisv": 13,
        "data": 2,
        "instructions": 2,
    }


def test_the_owners_held_out_rows_are_marked(tmp_path):
    data = tmp_path / "data"
    rows = [example(f"Where is number {i}?", f"At place {i}.") for i in range(6)]
    write_dataset(data, {"train": rows[:3], "valid": rows[3:5], "test": rows[5:]}, {})
    gathered = gather([store("data", data)], tmp_path / "night")
    assert [row.example.meta["sleep_held_out"] for row in gathered.rows] == [False] * 3 + [True] * 3


def test_the_meta_of_a_dataset_can_be_written_as_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(example("Where is it?", "At the lake.", score=float("nan")).to_dict()))
    (row,) = gather([store("data", path)], tmp_path / "night").rows
    assert json.loads(json.dumps(row.example.to_dict(), allow_nan=False))["meta"]["score"] is None


# Bad stores ----------------------------------------------------------------------------------------------------------


def failing(bad: StoreConfig, good: Path, into: Path) -> str:
    """Gather a bad store alone and beside a good one; return its sentence."""
    with pytest.raises(UserError) as alone:
        gather([bad], into)
    gathered = gather([store("salience", good, name="good"), bad], into)
    assert [about["usable"] for about in gathered.stores] == [3, 0]
    assert gathered.stores[1]["failed"] == str(alone.value)
    assert "\n" not in str(alone.value)
    assert str(alone.value).startswith(f"store {bad.name}: ")
    return str(alone.value)


@pytest.fixture
def good(buffer) -> Path:
    return buffer([experience(i) for i in range(3)], "good.json")


@pytest.mark.parametrize("kind", ["salience", "traces", "eisv", "instructions", "data", "claims"])
def test_a_store_that_vanished(kind, good, tmp_path):
    gone = tmp_path / "gone"
    options = {"corpus": str(gone)} if kind == "claims" else {}
    assert "there is no such" in failing(store(kind, gone, **options), good, tmp_path / "night")


def test_a_database_that_is_locked(anima, good, tmp_path):
    path = anima(walk(60))
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert "another program has locked it" in failing(store("eisv", path), good, tmp_path / "night")
    finally:
        holder.rollback()
        holder.close()
    assert gather([store("eisv", path)], tmp_path / "night").stores[0]["usable"] == 11


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_buffer_that_is_being_rewritten_is_read_again(share, tmp_path, buffer, monkeypatch):
    path = buffer([experience(i) for i in range(6)])
    whole = path.read_text()
    path.write_text(whole[: int(share * len(whole))])
    waits = []

    def finish(seconds):
        waits.append(seconds)
        path.write_text(whole)

    monkeypatch.setattr(module.time, "sleep", finish)
    assert len(gather([store("salience", path)], tmp_path / "night").rows) == 6
    assert len(waits) == 1


def test_rows_that_arrive_while_a_file_is_read_are_read_too(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(example(f"Where is number {i}?", f"At place {i}.").to_dict()) + "\n" for i in range(4)]
    path.write_text("".join(lines[:2]))
    read_rows = module.read_rows

    def growing(file):
        yield from list(read_rows(file))
        path.write_text("".join(lines))

    monkeypatch.setattr(module, "read_rows", growing)
    assert len(gather([store("data", path)], tmp_path / "night").rows) == 4


def test_a_buffer_that_was_cut_long_ago_fails_at_once(buffer, good, tmp_path, monkeypatch):
    path = buffer([experience(i) for i in range(6)])
    path.write_text(path.read_text()[:-40])
    os.utime(path, (1_700_000_000, 1_700_000_000))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("it waits for a file that nobody writes"))
    os.utime(good, (1_700_000_000, 1_700_000_000))
    assert "line 1: the JSON is broken or cut off there" in failing(store("salience", path), good, tmp_path / "night")


def test_an_artifact_that_was_cut_is_named_and_the_rest_is_read(tmp_path):
    path = refined(tmp_path / "traces")
    file = path / "objects" / "a1" / "a1.json"
    file.write_text(file.read_text()[:60])
    gathered = gather([store("traces", path, policy="all")], tmp_path / "night")
    accounted(gathered)
    assert gathered.stores[0]["usable"] == 2
    assert [one.rows for one in gathered.left_out if "cut off" in one.reason] == [[str(file)]]


def test_a_store_of_another_kind(buffer, anima, good, tmp_path):
    experiences, database = buffer([experience(1)]), anima(walk(60))
    into = tmp_path / "night"
    assert "is not an intact SQLite database" in failing(store("eisv", experiences), good, into)
    assert "this is not UTF-8 text" in failing(store("salience", database), good, into)
    assert "there is no such directory" in failing(store("traces", experiences), good, into)
    experiences.write_text('{\n"version": 1}')
    assert "neither, check the path" in failing(store("salience", experiences), good, into)


def test_a_directory_where_a_file_should_be(good, tmp_path):
    place = tmp_path / "directory"
    place.mkdir()
    for kind in ("salience", "instructions"):
        assert "this is not a file" in failing(store(kind, place), good, tmp_path / "night")
    assert "there is no such database file" in failing(store("eisv", place), good, tmp_path / "night")
    assert "there is no data file in this directory" in failing(store("data", place), good, tmp_path / "night")
    assert "there is no artifact store here" in failing(store("traces", place), good, tmp_path / "night")


@contextmanager
def without_rights():
    """Be a user who may not read what its owner alone may."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", ["salience", "traces", "eisv", "instructions", "data"])
def test_a_store_without_permission(kind, buffer, anima, tmp_path):
    place = {"traces": lambda: refined(tmp_path / "s"), "eisv": lambda: anima(walk(60))}
    path = place.get(kind, lambda: buffer([experience(1)]))()
    # Everything is imported before the rights are gone.
    gather([store(kind, path, **({"policy": "all"} if kind == "traces" else {}))], tmp_path / "night")
    tmp_path.chmod(0o700)
    path.chmod(0)
    try:
        with without_rights(), pytest.raises(UserError) as error:
            gather([store(kind, path)], tmp_path / "other")
    finally:
        path.chmod(0o700)
    assert str(error.value).startswith(f"store {kind}: {path}")
    assert "\n" not in str(error.value)


def test_a_huge_buffer_is_not_read(good, tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(2**30 + 1)
    assert "bytes, and at most" in failing(store("salience", path), good, tmp_path / "night")


def test_where_all_stores_fail_one_sentence_names_them(tmp_path):
    with pytest.raises(UserError) as error:
        gather([store("salience", tmp_path / "a.json"), store("eisv", tmp_path / "b.db")], tmp_path / "night")
    said = str(error.value)
    assert said.startswith("no store can be used: store salience: ")
    assert "; store eisv: " in said


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_salence": 0.6}, "store s: there is no option 'min_salence' of salience; the nearest is 'min_salience'"),
        ({"held_out": 0.2}, "store s: held_out is decided by the night for all stores; leave it out here"),
        ({"max_examples": 5}, "store s: max_examples is decided by the night for all stores; leave it out here"),
        ({"pattern_share": 1}, "store s: pattern_share is decided by the night for all stores; leave it out here"),
        ({"min_salience": "high"}, "store s: min_salience: input should be a valid number"),
        ({"cut": "trimm"}, "store s: cut: input should be 'trim', 'drop' or 'keep', not 'trimm'"),
        ({"keep": ["eco"]}, "store s: keep: there is no check 'eco'; the nearest is 'echo'"),
        ({"filters": {}}, "store s: there is no option 'filters' of salience"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, said, good, tmp_path):
    with pytest.raises(UserError) as error:
        gather([store("salience", good), store("salience", good, name="s", **options)], tmp_path / "night")
    assert str(error.value).startswith(said)
    assert not (tmp_path / "night").exists()


def test_options_of_other_kinds(good, tmp_path):
    with pytest.raises(UserError, match="store data: there is no option 'policy' of data: data has none"):
        gather([store("data", good, policy="all")], tmp_path / "night")
    with pytest.raises(UserError, match="store traces: there is no option 'polcy' of traces; the nearest is 'policy'"):
        gather([store("traces", good, polcy="all")], tmp_path / "night")
    with pytest.raises(UserError, match="store claims: corpus is missing"):
        gather([store("claims", good)], tmp_path / "night")
    # A value that the source itself refuses is that store's failure.
    with pytest.raises(UserError, match=r"store traces: .*'al'"):
        gather([store("traces", refined(tmp_path / "t"), policy="al")], tmp_path / "night")


def test_options_reach_the_source(buffer, tmp_path):
    prompt = tmp_path / "agent.txt"
    prompt.write_text("You are the keeper of the lake.\n")
    path = buffer([experience(1, response="Mm."), experience(2, total=0.3), experience(3)])
    options = {"keep": "short", "min_salience": 0.25, "weights": "equal", "system_prompt": str(prompt)}
    gathered = gather([store("salience", path, **options)], tmp_path / "night")
    assert len(gathered.rows) == 3
    assert {row.example.messages[0]["content"] for row in gathered.rows} == {"You are the keeper of the lake."}
    assert {row.example.weight for row in gathered.rows} == {1.0}
    with pytest.raises(UserError, match=r"gone\.txt: there is no such file"):
        gather([store("salience", path, system_prompt=str(tmp_path / "gone.txt"))], tmp_path / "night")
    said = gather([store("salience", path, system_prompt="You keep the lake.")], tmp_path / "night").rows[0]
    assert said.example.messages[0]["content"] == "You keep the lake."
