"""Curation: what cannot be learned is named, nothing twice, no prompt too often, and no row ever changes sides."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from trace_stores import artifact, write_store

from mlx_lora.data.dataset import Example
from mlx_lora.data.split import place_of
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.sleep.config import StoreConfig
from mlx_lora.sleep.stores import reading as stores
from mlx_lora.sleep.stores.curate import Curated, curate
from mlx_lora.sleep.stores.reading import Row, digest, gather
from mlx_lora.sources.salience import experience_id, pattern_of

WORDS = [
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "island", "juniper", "kelp"),
    *("lagoon", "meadow", "nectar", "orchard", "prairie", "quarry", "ridge", "summit", "thicket", "upland", "valley"),
    *("willow", "yarrow", "zephyr", "anchor", "beacon", "cliff", "dune", "estuary", "fern", "glacier"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "PAUSE_S", 0.0)


def row(number: int, answer: str = "", question: str = "", store: str = "data", group: str = "", **fields) -> Row:
    rng = random.Random(number)
    question = question or f"Tell me about {' and '.join(rng.sample(WORDS, 5))}?"
    answer = answer or f"It has {' beside '.join(rng.sample(WORDS, 9))}."
    identity = f"row{number:04d}"
    group = group or digest(question)
    meta = {"sleep_store": store, "sleep_id": identity, "sleep_group": digest(group), **fields.pop("meta", {})}
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Row(identity, store, group, Example(messages, meta=meta, **fields))


def run(rows, known=None, held_out=0.1, pattern_share=1.0, **options) -> Curated:
    curated = curate(rows, held_out=held_out, pattern_share=pattern_share, known=known or {}, **options)
    accounted(rows, curated)
    return curated


def accounted(rows, curated) -> None:
    """Check that every row is used or named, once."""
    used = [example.meta["sleep_id"] for example in [*curated.train, *curated.valid]]
    named = [name.partition(":")[0] for one in curated.left_out for name in one.rows]
    assert Counter([*used, *named]) == Counter(row.id for row in rows)
    stores = {row.id: row.store for row in rows}
    for one in [*curated.left_out, *curated.changed]:
        assert {stores[name.split(":")[0].split(" ")[0]] for name in one.rows} == {one.store}


def ids(examples) -> set[str]:
    return {example.meta["sleep_id"] for example in examples}


def reasons(curated) -> dict[str, list[str]]:
    return {one.reason: [name.partition(":")[0] for name in one.rows] for one in curated.left_out}


# Sides ---------------------------------------------------------------------------------------------------------------


def test_sides_are_by_hash_of_the_group():
    rows = [row(i) for i in range(300)]
    curated = run(rows)
    assert ids(curated.valid) == {one.id for one in rows if place_of(one.group) < 0.1}
    assert 15 < len(curated.valid) < 45
    # The order and the others of a night decide nothing.
    assert ids(run(rows[::-1][:250]).valid) == ids(curated.valid) & {one.id for one in rows[50:]}


def test_an_earlier_night_decides_for_its_rows_and_their_groups():
    rows = [row(i, group=f"group {i % 20}") for i in range(60)]
    usual = run(rows)
    changed = {one.id: one.id not in ids(usual.valid) for one in rows[:20]}
    moved = run(rows, changed)
    assert ids(moved.valid) == {one.id for one in rows if changed[rows[int(one.id[3:]) % 20].id]}
    # A caller that has only the new rows gives the groups.
    new = run(rows[20:], {digest(one.group): changed[one.id] for one in rows[:20]})
    assert ids(new.valid) == ids(moved.valid) - {one.id for one in rows[:20]}


@pytest.mark.parametrize(("count", "least"), [(10, 2), (24, 3), (40, 4)])
def test_a_small_night_has_rows_that_judge(count, least):
    rows = [one for one in (row(i) for i in range(500)) if place_of(one.group) >= 0.1][:count]
    curated = run(rows)
    lowest = sorted(rows, key=lambda one: place_of(one.group))[:least]
    assert ids(curated.valid) == {one.id for one in lowest}
    assert not run(rows[:9]).valid


def test_one_group_is_not_held_out_whole():
    rows = [row(i, group="one task") for i in range(30)]
    curated = run(rows, held_out=0.99)
    assert len(curated.train) == 30
    assert curated.notes == [
        "None of the 30 rows judges: they trained before, or are of too few groups to hold one out."
    ]
    two = run([*rows, *(row(i, group="another task") for i in range(30, 40))], held_out=0.99)
    assert ids(two.valid) == {f"row{i:04d}" for i in range(30, 40)}


def test_what_its_owner_holds_out_judges_and_what_he_trains_on_trains():
    rows = [row(i, meta={"sleep_held_out": i < 5}) for i in range(20)]
    rows += [row(20, meta={"is_eval": True}), row(21, meta={"bucket": "eval"})]
    curated = run(rows, held_out=0.9)
    assert ids(curated.valid) == {f"row{i:04d}" for i in (0, 1, 2, 3, 4, 20, 21)}
    # It trained before its owner marked it: it neither moves nor trains again.
    again = run(rows, {"row0020": False})
    assert reasons(again) == {} or "row0020" in {name for names in reasons(again).values() for name in names}
    assert "row0020" not in ids(again.valid)


def test_a_prompt_on_both_sides_does_not_train():
    held = row(1, meta={"sleep_held_out": True})
    same = row(2, question=held.example.messages[0]["content"], store="other", group="elsewhere")
    curated = run([held, same, *(row(i) for i in range(3, 8))], {"row0002": False})
    assert list(reasons(curated).values()) == [["row0002"]]
    assert "row0001" in ids(curated.valid)


# What cannot be learned ----------------------------------------------------------------------------------------------


def test_rows_that_stop_training_are_left_out_one_by_one():
    rows = [row(i) for i in range(12)]
    bad = [
        row(20, meta={"never_train": True}),
        row(21, meta={"is_negative_example": True}),
        row(22, answer="The key is ghp_" + "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vW1xY2"),
        row(23, answer=" "),
        row(24, weight=0.0),
        row(25, question=rows[3].example.messages[0]["content"], answer=rows[3].example.messages[1]["content"]),
        row(
            26,
            question=rows[5].example.messages[0]["content"],
            answer=rows[5].example.messages[1]["content"] + " Yes.",
        ),
    ]
    curated = run([*rows, *bad])
    assert reasons(curated) == {
        "its weight is 0, so that nothing of it would be learned": ["row0024"],
        "answers that are empty": ["row0023"],
        "rows marked never_train in training": ["row0020"],
        "negative examples in training": ["row0021"],
        "what looks like keys or passwords": ["row0022"],
        "rows that are there already": ["row0025"],
        "rows that nearly are there already": ["row0026"],
    }
    assert len(curated.train) + len(curated.valid) == 12
    assert "aB3dE5fG7h" not in json.dumps([one.rows for one in curated.left_out])


def test_a_base_names_rows_that_it_cannot_be_trained_on():
    from mlx_lora.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(BUILT_IN["builtin/tiny-lumen"]))
    special = next(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    rows = [row(1), row(2, answer=f"It ends {special} here."), row(3, answer="It goes on. " * 200), row(4)]
    rows.append(row(5))
    rows[-1].example.messages.insert(0, {"role": "tool", "content": "a result", "tool_call_id": "x"})
    curated = run(rows, tokenizer=tokenizer, max_seq_length=128)
    found = reasons(curated)
    assert found["control tokens as text"] == ["row0002"]
    assert found["answers that do not fit"] == ["row0003"]
    assert ids(curated.train) >= {"row0001", "row0004"}


def test_warnings_are_notes_that_name_a_row():
    curated = run([row(i, "Yes." if i == 3 else "", meta={"sleep_held_out": i > 9}) for i in range(12)])
    assert curated.notes == [
        "1 × answers of fewer than ten characters (check short_answer), the first: row0003: the answer is only 'Yes.'."
    ]


def test_bare_texts_are_no_leak():
    rows = [row(i, group=f"row{i:04d}") for i in range(60)]
    for one in rows:
        del one.example.messages[0]
    curated = run(rows, pattern_share=0.1)
    assert curated.left_out == []
    assert min(len(curated.valid), len(curated.train)) > 0


# Copies --------------------------------------------------------------------------------------------------------------


def said(number: int, answer: str, store: str) -> Row:
    return row(number, answer=answer, store=store, meta={"experience_id": f"row{number:04d}"})


def test_an_answer_of_another_store_or_night_is_not_learned_again():
    answer = "The lake lay still, and we both knew that the boat would have to wait for the morning wind to come."
    near = answer.replace("morning", "evening")
    one, two, three = said(1, answer, "one"), said(2, near, "two"), said(3, near.upper(), "one")
    curated = run([one, two, three, *(row(i) for i in range(4, 9))])
    # The third is of the first one's own store, whose filter has looked at it (or was told to keep it).
    assert reasons(curated) == {"nearly the same answer as a row of another store, or of an earlier night": ["row0002"]}
    later = run([said(4, near, "one"), row(5)], earlier=[one.example])
    assert reasons(later) == {"nearly the same answer as a row of another store, or of an earlier night": ["row0004"]}


def test_a_row_of_an_earlier_night_is_not_learned_again_but_is_no_copy_of_itself():
    rows = [row(i) for i in range(20)]
    copy = row(30, question=rows[0].example.messages[0]["content"], answer=rows[0].example.messages[1]["content"])
    curated = run([*rows[10:], copy], earlier=[one.example for one in rows[:15]])
    assert reasons(curated) == {"rows that are there already": ["row0030"]}
    assert curated.left_out[0].rows == ["row0030: the same as row0000 of an earlier night"]


def test_of_two_copies_the_one_that_is_known_stays():
    old, new = row(2), row(1)
    new.example.messages = [dict(message) for message in old.example.messages]
    assert ids(run([new, old, row(3)], {"row0002": False}).train) == {"row0002", "row0003"}


# Patterns ------------------------------------------------------------------------------------------------------------


def test_no_prompt_of_experiences_has_more_than_its_share():
    rows = [row(i, meta={"experience_id": "x"}) for i in range(40)]
    rows += [
        row(i, question=f"What now, in session {i}?", group="what now in session 0", meta={"experience_id": "x"})
        for i in range(40, 80)
    ]
    curated = run(rows, pattern_share=0.1)
    assert reasons(curated) == {"too many rows of one prompt": [f"row{i:04d}" for i in range(44, 80)]}


def test_too_few_prompts_for_the_share_are_a_note():
    rows = [row(i, question="What now?", group="what now", meta={"experience_id": "x"}) for i in range(9)]
    rows += [row(20, meta={"experience_id": "x"})]
    curated = run(rows, pattern_share=0.1)
    assert len(curated.train) + len(curated.valid) == 6
    assert curated.notes[0].startswith("With so few different prompts, 10% of the rows from one prompt cannot be")


def test_trajectories_of_one_shape_are_not_one_prompt(eisv_data, tmp_path):
    rows = gather([StoreConfig("eisv", "data", [str(eisv_data)])], tmp_path / "night").rows
    curated = run(rows, pattern_share=0.1)
    assert curated.left_out == []
    assert len(curated.train) + len(curated.valid) == 90


# Real buffers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "train", "valid", "capped"), [("twenty_four", 17, 4, 3), ("after_removal", 73, 8, 60)]
)
def test_real_buffers(name, train, valid, capped, realdata, tmp_path):
    config = StoreConfig("agent", "salience", [str(realdata / "salience" / f"{name}.json")])
    curated = run(gather([config], tmp_path / "night").rows, pattern_share=0.1)
    assert (len(curated.train), len(curated.valid)) == (train, valid)
    assert sum(len(one.rows) for one in curated.left_out) == capped
    trimmed = [example for example in [*curated.train, *curated.valid] if "trimmed" in example.meta]
    (changed,) = curated.changed
    assert {name.split()[0] for name in changed.rows} == ids(trimmed)
    assert all(example.messages[-1]["open_end"] for example in trimmed)
    patterns = [{pattern_of(e.messages[1]["content"]) for e in side} for side in (curated.train, curated.valid)]
    assert not patterns[0] & patterns[1]


def test_no_collapsed_answer_gets_through(realdata, tmp_path):
    folder = realdata / "salience"
    before, after = (json.loads((folder / f"{name}_removal.json").read_text()) for name in ("before", "after"))
    collapsed = {e["id"] for e in before} - {e["id"] for e in after}
    config = StoreConfig("agent", "salience", [str(folder / "before_removal.json")])
    curated = run(gather([config], tmp_path / "night").rows, pattern_share=0.1)
    assert len(collapsed) == 24
    assert not collapsed & (ids(curated.train) | ids(curated.valid))


# Growing stores ------------------------------------------------------------------------------------------------------


def experience(rng: random.Random, day: int) -> dict:
    prompt = rng.choice(["What now?", f"What about the {rng.choice(WORDS)}?", f"Who is number {day}?"])
    response = f"Here are {', '.join(rng.sample(WORDS, 9))} and the {rng.choice(WORDS)}."
    scores = dict.fromkeys(("surprise", "novelty", "arousal", "reward", "conflict"), 0.6) | {"total": rng.random()}
    identity = experience_id(prompt, response)
    record = {"id": identity, "prompt": prompt, "response": response, "salience": scores, "session": day}
    return record | {"phase": "x", "timestamp": f"2026-01-{day:02}T00:00:00", "metadata": {}}


def step(rng: random.Random, day: int) -> dict:
    task = rng.choice(WORDS)
    context = {"specification": f"Write about the {task}", "constraints": " ".join(rng.sample(WORDS, 4))}
    content = f"def {task}():\n    return {rng.sample(WORDS, 5)}"
    return artifact(f"{rng.getrandbits(64):016x}", pair=f"p{rng.getrandbits(32)}", content=content, context=context)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20))])
@pytest.mark.parametrize("all_rows", [True, False])
def test_no_row_ever_changes_sides(seed, all_rows, tmp_path):
    rng = random.Random(seed)
    experiences: list[dict] = []
    steps: list[dict] = []
    questions: list[dict] = []
    known: dict[str, bool] = {}
    groups: dict[str, bool] = {}
    held_out = rng.choice([0.05, 0.1, 0.3])
    for night in range(1, 7):
        experiences += [experience(rng, night) for _ in range(rng.randrange(25))]
        steps += [step(rng, night) for _ in range(rng.randrange(8))]
        questions += [row(rng.randrange(400)).example.to_dict() for _ in range(rng.randrange(9))]
        if rng.random() < 0.3:
            # Buffers shrink and are merged in another order.
            rng.shuffle(experiences)
            experiences = experiences[: rng.randrange(len(experiences) + 1)]
        rows = gather(stores_of(tmp_path, experiences, steps, questions), tmp_path / f"night{night}").rows
        given = rows if all_rows else [one for one in rows if one.id not in known]
        curated = run(given, {**groups, **known}, held_out=held_out, pattern_share=0.3)
        for side, examples in ((False, curated.train), (True, curated.valid)):
            for example in examples:
                assert known.setdefault(example.meta["sleep_id"], side) == side
                assert groups.setdefault(example.meta["sleep_group"], side) == side
        if len(curated.train) + len(curated.valid) >= 10 and not known.keys() & {one.id for one in given}:
            assert curated.valid or curated.notes
    assert not all(known.values())


def stores_of(tmp_path: Path, experiences, steps, questions) -> list[StoreConfig]:
    (tmp_path / "buffer.json").write_text(json.dumps(experiences))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (tmp_path / "traces" / "objects").mkdir(parents=True, exist_ok=True)
    write_store(tmp_path / "traces", steps)
    return [
        StoreConfig("salience", "salience", [str(tmp_path / "buffer.json")], {"min_salience": 0.2}),
        StoreConfig("traces", "traces", [str(tmp_path / "traces")], {"policy": "all", "every_accepted": True}),
        StoreConfig("data", "data", [str(tmp_path / "rows.jsonl")]),
    ]
