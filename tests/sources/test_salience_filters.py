"""What is left out of training, and how well the collapsed outputs are found."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mlx_lora.cli.data.salience import CHECKS as CLI_CHECKS
from mlx_lora.data.dedup import words_of
from mlx_lora.data.import_report import ImportReport
from mlx_lora.sources.salience import (
    CHECKS,
    Filters,
    NearDuplicates,
    answer_fault,
    is_cut,
    made_of_stock_phrases,
    pattern_limit,
    pattern_of,
    plays_a_role,
    read_buffer,
    thinks_on,
    without_faults,
)
from mlx_lora.sources.salience.filters import without_empty_thoughts


def test_real_answers_cut_off_and_thinking(realdata):
    before = read_buffer(realdata / "salience" / "before_removal.json")
    assert sum(is_cut(e["response"]) for e in before) == 72
    assert is_cut(before[1]["response"])  # "... by demonstrating empathy, patience, and"
    thinking = read_buffer(realdata / "salience" / "think_blocks.json")
    assert sum(thinks_on(e["response"]) for e in thinking) == 2
    emptied = [without_empty_thoughts(e["response"]) for e in thinking]
    assert sum(a != e["response"] for a, e in zip(emptied, thinking, strict=True)) == 6


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("We went home.", False),
        ("We went home together and then we all", True),
        ("We learn:", True),
        ("We learn three things,", True),
        ("*We went home together, all five of us!*", False),
        ('He said to all of us there "go home."', False),
        ("Forty-two", False),
        ("So we all went home after the long day 🙂", False),
        ("Here it is:\n```\nprint(1)\n```", False),
        ("Here it is:\n```\nprint(1)", True),
        ("We all went home after the long day.\n— Thor", False),
        ("我们一起回家了。", False),
    ],
)
def test_cut_answers(text, cut):
    assert is_cut(text) is cut


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<think>\nOkay, so", "think"),
        ("Okay, so.</think> We went home at last.", "think"),
        ("<think>So.</think>\n", "think"),
        ("<think>So.</think>\nWe went home at last.", None),
        ("Assistant: We went home at last.", "roles"),
        ("**SAGE:** We went home at last.", "roles"),
        ("We went home.\nHuman: And then?\n", "roles"),
        ("We went home at last.<|im_end|>", "roles"),
        ("The user: a person who went home at last.", None),
        ("Should I quit?", "questions"),
        ("What? Who? Why? When? Where? I ask myself what it all means.", "questions"),
        ("We talked long about the lake and its fish. Do you remember what we said there, and why?", None),
        ("Yes.", "short"),
        ("I can say that we know it, I can say that we know it, I can say that we know it.", "repeated"),
        ("We went home and we never", None),
        ("We went home and then we never came back to", "cut"),
    ],
)
def test_faults_of_one_answer(text, fault):
    assert answer_fault(text, Filters()) == fault
    if fault:
        assert answer_fault(text, Filters(skip=frozenset({fault}))) != fault


def test_plain_markers_are_no_role():
    assert not plays_a_role("1 < 2 | 3 > 2. See <b>this</b> and [this].")


def experience(number, response, **metadata):
    return {"id": str(number), "prompt": "And?", "response": response, "metadata": metadata, "timestamp": None}


def test_omissions_are_counted_and_named():
    words = [f"word{i}" for i in range(13)]
    rows = [
        experience(0, " ".join(words) + "."),
        experience(1, " ".join([*words, "again"]) + "!"),
        experience(2, "We went to the lake and swam.", using_lora=True),
        experience(3, "Are you conscious?"),
    ]
    report = ImportReport("salience")
    assert [e["id"] for e in without_faults(rows, rows, Filters(without_lora=True), report)] == ["0"]
    assert report.counts == {
        "written with an adapter (using_lora)": 1,
        CHECKS["questions"]: 1,
        CHECKS["near-duplicates"]: 1,
    }
    assert report.left_out[CHECKS["near-duplicates"]][0].endswith("(as 0)")
    everything = Filters(skip=frozenset(CHECKS))
    assert without_faults(rows, rows, everything, ImportReport("salience")) == rows


def test_the_usual_manner_is_no_collapse():
    answers = [f"In session {i} we noticed that our pattern emerges again." for i in range(50)]
    marked, usual = made_of_stock_phrases(answers)
    assert usual == 1
    assert not any(marked)
    report = ImportReport("salience")
    without_faults([], [experience(i, a) for i, a in enumerate(answers)], Filters(), report)
    assert "cannot be told from the agent's manner" in report.notes[0]


def test_the_command_names_every_check():
    assert set(CLI_CHECKS) == set(CHECKS)


def near_duplicates_by_brute_force(texts):
    kept, repeated = [], []
    for number, text in enumerate(texts):
        words = set(words_of(text))
        repeated += [number] * any(len(words & k) / len(words | k) >= 0.85 for k in kept)
        kept += [words] * (number not in repeated)
    return repeated


@pytest.mark.parametrize(("vocabulary", "longest"), [(300, 50), (40, 12), (5000, 70)])
def test_near_duplicates_are_those_of_brute_force(vocabulary, longest):
    chance = random.Random(vocabulary)
    texts = []
    for _ in range(200):
        words = [f"w{chance.randrange(vocabulary)}" for _ in range(chance.randrange(1, longest))]
        texts.append(" ".join(words))
        for _ in range(chance.randrange(len(words) // 6 + 2)):
            words.insert(chance.randrange(len(words) + 1), f"w{chance.randrange(vocabulary)}")
        texts.append(" ".join(words[chance.randrange(2) :] or ["w"]))
    chance.shuffle(texts)
    one_by_one, at_once = NearDuplicates(), NearDuplicates()
    found = [one_by_one.add(str(i), text) for i, text in enumerate(texts)]
    assert [i for i, twin in enumerate(found) if twin is not None] == near_duplicates_by_brute_force(texts)
    assert at_once.add_all([(str(i), text) for i, text in enumerate(texts)]) == found


def test_the_most_examples_of_one_prompt():
    assert pattern_limit(Counter({"a": 50, **{str(i): 1 for i in range(50)}}), 0.1) == (5, True)
    assert pattern_limit(Counter({str(i): 30 for i in range(10)}), 0.1) == (30, True)
    assert pattern_limit(Counter({"a": 90, "b": 2, "c": 1}), 0.1) == (31, False)
    assert pattern_limit(Counter(), 0.1) == (1, True)
    assert pattern_of("  What's next, in session 12?") == pattern_of("what's next in session 7") != pattern_of("next")
    assert pattern_of("?!") == "?!"
