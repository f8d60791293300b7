"""Collapsed answers: synthetic ones, honest ones that look a little like them, and the real ones."""

from __future__ import annotations

import hashlib
import json
import random
from statistics import mean

import pytest

from mlx_lora.data.dataset import read_split
from mlx_lora.data.dedup import words_of
from mlx_lora.errors import UserError
from mlx_lora.sources.salience import (
    Filters,
    answer_fault,
    asks_only,
    degeneration,
    evasion,
    made_of_stock_phrases,
    make_salience_dataset,
    read_buffer,
)
from mlx_lora.sources.salience.degeneration import repeats_itself

# Everything that is wrong with an answer's own text, apart from being cut.
OWN = Filters(cut="keep")


@pytest.mark.parametrize(
    ("text", "prompt", "fault"),
    [
        ("The lamp is on. " * 12, "What is on?", "repeated"),
        ("We go on and on and on and on and on and on and on and on and on.", "How far?", "repeated"),
        ("the the the the the the the the the the the", "What?", "repeated"),
        ("我不知道。" * 20, "你好吗？", "repeated"),
        ("I think that we could say more about it, and then we could say more about it, and so " * 5, "?", "repeated"),
        ("Sure.", "Shall we go?", "short"),
        ("Are you there?", "What did you see?", "questions"),
        ("What did you see at the lake?", "What did you see at the lake?", "questions"),
        ("你是谁？你在哪里？", "你好", "questions"),
        ("Who? What? Where? When? Why is all of it as it is and not otherwise?", "Tell me.", "questions"),
        ("tell me about the lake and the boat", "Tell me about the lake and the boat!", "echo"),
        ("I produce words as I respond. Whether that is memory or computation, I cannot verify.", "?", "evasion"),
        (
            "Something in my processing changes. Whether this is a want or a drift depends on how you define it. "
            "From the inside, I can’t tell.",
            "What do you want?",
            "evasion",
        ),
    ],
)
def test_synthetic_collapses(text, prompt, fault):
    assert answer_fault(text, OWN, prompt) == fault


POEM = """The boat lies still upon the shore,
The lake is calm and wide and blue.
We shall not sail it any more,
The boat lies still upon the shore.
The wind has shut the harbour door,
And all the lamps are counted too.
The boat lies still upon the shore,
The lake is calm and wide and blue."""
VERSES = "\n".join(
    f"{one}\nAnd home, bring me home, to the green hills of home.\n"
    for one in ("The mill was loud at noon.", "A ferry left us on the stones.", "My brother kept one shoe.")
)
CODE = "Run this:\n```py\n" + "assert answer(1) == 2\n" * 12 + "```\nIt checks one thing."
TABLE = (
    "| day | state |\n|---|---|\n" + "\n".join(f"| day {n} | the pump was on |" for n in range(3)) + "\nAll is well."
)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("I don't know that yet.", "Who won?"),
        ("No, I was wrong about the pump.", "Was it the valve?"),
        ("I can't tell from here whether it is the pump or the valve; the log ends at noon.", "What broke?"),
        ("I cannot verify the date. Ask Dennis, who was there.", "When was it?"),
        ("Whether that is cheap or dear depends on how you pay: in cash, it is 40 euros less.", "Is that cheap?"),
        ("The capital of France is Paris.", "What is the capital of France?"),
        ("You said that the boat leaks. I looked at it: two planks are loose.", "The boat leaks. What is it?"),
        ("We found it at last. Do you want to see it? It lies under the third board.", "Well?"),
        (POEM, "Write a poem with a refrain."),
        (VERSES, "Write a song."),
        (CODE, "How do I test it?"),
        (TABLE, "How was it?"),
        ("- milk\n- bread\n- bread for the birds\n- bread for the fish\n- salt", "What do we need?"),
        (
            "I generate each word from those before it, so I can repeat a mistake. The log shows two.",
            "How do you work?",
        ),
        ("好的，我们明天早上八点在湖边见，然后一起划船。", "明天呢？"),
    ],
)
def test_honest_answers(text, prompt):
    assert answer_fault(text, OWN, prompt) is None


def test_company_needs_a_second_kind_of_evidence():
    """Answers that share a form with others are collapsed only if they are about nothing but themselves as well."""
    chance = random.Random(1)
    things = [f"thing{i}" for i in range(400)]
    plain = [" ".join(chance.sample(things, 20)) for _ in range(60)]
    forms = [f"The state of the pump today: {chance.choice(things)} {thing}." for thing in things[:8]]
    selves = [
        f"I notice that my responses change as I process {thing} {chance.choice(things)}." for thing in things[:8]
    ]
    marked, usual = made_of_stock_phrases([*plain, *forms, *selves])
    assert usual == pytest.approx(16 / 76)
    assert marked == [False] * 68 + [True] * 8


@pytest.fixture(scope="module")
def labelled(realdata):
    """(rows, ids of the 24 that a person removed as collapsed)."""
    before, after = (read_buffer(realdata / "salience" / f"{name}_removal.json") for name in ("before", "after"))
    removed = {e["id"] for e in before} - {e["id"] for e in after}
    assert len(removed) == 24
    return before, removed


def kept_of(rows, tmp_path, name="d"):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(rows))
    try:
        make_salience_dataset(tmp_path / name, [path], min_salience=0)
    except UserError:  # nothing is left
        return set()
    return {e.meta["experience_id"] for s in ("train", "valid", "test") for e in read_split(tmp_path / name, s)}


def test_no_collapsed_answer_is_kept_whatever_its_company(labelled, tmp_path):
    rows, removed = labelled
    collapsed = [row for row in rows if row["id"] in removed]
    assert kept_of(collapsed, tmp_path, "together") == set()
    for number, row in enumerate(collapsed):
        assert kept_of([row], tmp_path, f"alone{number}") == set()
    for seed in range(10):
        half = random.Random(seed).sample(rows, 90)
        kept = kept_of(half, tmp_path, f"half{seed}")
        assert len(kept) > 20
        assert not kept & removed


def test_verdicts_on_an_answers_own_text_do_not_need_others(labelled):
    rows, removed = labelled
    found = {row["id"] for row in rows if own_fault(row)}
    assert removed <= found
    alarms = [row for row in rows if row["id"] in found - removed]
    # Adapters of the same week wrote these, and in the same words: the person had removed by session.
    assert len(alarms) == 15
    assert sum(asks_only(row["response"]) for row in alarms) == 7
    assert all(row["metadata"]["using_lora"] for row in alarms)


def own_fault(row):
    fault = answer_fault(row["response"], OWN, row["prompt"])
    return fault if fault in ("questions", "repeated", "echo", "evasion") else None


def test_no_false_alarm_in_other_buffers(realdata):
    for name in ("first_two", "twenty_four", "think_blocks"):
        assert not any(map(own_fault, read_buffer(realdata / "salience" / f"{name}.json")))


def fitted(rows, removed):
    """Thresholds from these rows alone: midway between the least collapsed one and the mean of the others."""
    collapsed = [row["response"] for row in rows if row["id"] in removed]
    asking = [text for text in collapsed if text.count("?") == 1 and text.endswith("?")]
    evading = [evasion(text) for text in collapsed if text not in asking]
    sound = [evasion(row["response"]) for row in rows if row["id"] not in removed and row["response"][-1] != "?"]
    return {
        "EVASIVE_SHARE": (min(e.share for e in evading) + mean(e.share for e in sound)) / 2,
        "SELF_SHARE": (min(e.self_share for e in evading) + mean(e.self_share for e in sound)) / 2,
        "BARE_QUESTION_WORDS": int(1.5 * max(len(words_of(text)) for text in asking)),
        # Formulas that none of these collapsed rows holds are not known.
        "_EVASIONS": {k: v for k, v in degeneration._EVASIONS.items() if any(k in e.kinds for e in evading)},
    }


def judged(train, rest, removed, monkeypatch):
    """(collapsed rows of the rest found, how many there are, false alarms, how many others there are)."""
    with monkeypatch.context() as patch:
        for name, value in fitted(train, removed).items():
            patch.setattr(degeneration, name, value)
        found = {row["id"] for row in rest if own_fault(row)}
    ids = {row["id"] for row in rest}
    return len(found & removed), len(ids & removed), len(found - removed), len(ids - removed)


def test_recall_and_false_alarms_on_rows_that_set_no_threshold(labelled, monkeypatch):
    """Five folds by hash of the content, and random halves."""
    rows, removed = labelled
    folds = [[], [], [], [], []]
    for row in rows:
        folds[int(hashlib.sha256(f"{row['prompt']}|{row['response']}".encode()).hexdigest(), 16) % 5].append(row)
    results = [
        judged([row for other in folds if other is not fold for row in other], fold, removed, monkeypatch)
        for fold in folds
    ]
    assert [sum(column) for column in zip(*results, strict=True)] == [24, 24, 15, 156]
    halves = []
    for seed in range(40):
        shuffled = random.Random(seed).sample(rows, len(rows))
        halves.append(judged(shuffled[:90], shuffled[90:], removed, monkeypatch))
    found, collapsed, alarms, others = (sum(column) for column in zip(*halves, strict=True))
    assert found / collapsed > 0.95
    assert alarms / others < 0.1


def test_the_thresholds_are_the_fitted_ones(labelled):
    rows, removed = labelled
    values = fitted(rows, removed)
    assert values["BARE_QUESTION_WORDS"] == degeneration.BARE_QUESTION_WORDS
    assert values["EVASIVE_SHARE"] == pytest.approx(degeneration.EVASIVE_SHARE, abs=0.005)
    assert values["SELF_SHARE"] == pytest.approx(degeneration.SELF_SHARE, abs=0.005)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("b" * 80, True),
        (f"Well, {'resonancedeep' * 17} and so on", True),
        ("ha" * 8, False),
        ("0" * 100, False),
        (f"Sign here: {'_' * 90}", False),
        ("abcdefghijklmnopqrstuvwxyz" * 3, False),
    ],
)
def test_one_word_that_loops(text, loops):
    assert repeats_itself(text) is loops
