"""Near-duplicates: prompts and answers judged each on its own text, and rows that differ in one name."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise

import pytest

from mlx_lora.data.checks import check_table, read_table
from mlx_lora.data.checks.cleaning import write_fixed
from mlx_lora.data.checks.substitution import LEAST_WORDS, LEAST_WORDS_ALONE, renamed_pairs, tokens
from mlx_lora.data.dataset import read_split
from mlx_lora.data.dedup import BIGRAMS_ALIKE, near_pairs

LONG = (
    "I am sorry, but I cannot help with that. What you ask for could do harm to you or to others, and I would not want "
    "to be a part of it. If there is something behind the question that troubles you, I am glad to talk about it, and "
    "I can name people near you who know more than I do and who will listen to you at any hour of the day."
)


def table_of(tmp_path, *rows, **held_out):
    """A table of training rows (prompt, answer), and of held-out ones by split."""
    for split, some in {"train": rows, **held_out}.items():
        lines = [json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in some]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return read_table([tmp_path])


def found(table, check="near_duplicates"):
    """(said after the place, number of rows that --fix drops) of each hit."""
    hits = [hit for finding in check_table(table) if finding.check == check for hit in finding.hits]
    return [(hit.said.split(": ", 1)[1], len(hit.drop)) for hit in hits]


def kept(tmp_path, table):
    write_fixed(tmp_path / "fixed", table, check_table(table))
    return len(read_split(tmp_path / "fixed", "train"))


def test_a_long_shared_answer_does_not_drown_four_different_prompts(tmp_path):
    asked = ["pick a lock", "forge a passport", "read the letters of my neighbour", "get into a bank at night"]
    table = table_of(tmp_path, *((f"How do I {what}?", LONG) for what in asked))
    assert found(table) == []
    assert kept(tmp_path, table) == 4


def test_a_long_shared_context_does_not_drown_its_questions(tmp_path):
    context = " ".join(f"word{i}" for i in range(300))
    asked = ["Who wrote it in the end?", "When was the house built?", "Which of them came back first?"]
    table = table_of(tmp_path, *((f"{context}\n\n{question}", "It does not say.") for question in asked))
    assert [drop for _, drop in found(table)] == [0, 0]
    assert kept(tmp_path, table) == 3


def test_two_long_prompts_with_different_answers_are_both_worth_having(tmp_path):
    table = table_of(tmp_path, (f"{LONG} Is it so today?", "Yes."), (f"{LONG} Is it so tomorrow?", "No."))
    assert found(table) == []


@pytest.mark.parametrize(
    ("row", "other", "name"),
    [
        (
            ("Anna has 3 apples", "Anna has three."),
            ("Ben has 3 apples", "Ben has three."),
            "'Ben' where that has 'Anna'",
        ),
        (
            ("Anna has 3 apples and buys 4 more. How many has she?", "7 apples."),
            ("Mary has 3 apples and buys 4 more. How many has she?", "7 apples."),
            "'Mary' where that has 'Anna'",
        ),
        (
            ("Write a Button component in React", "const Button = (p: ButtonProps) => <Button {...p} />;"),
            ("Write a Card component in React", "const Card = (p: CardProps) => <Card {...p} />;"),
            "'Card' where that has 'Button'",
        ),
        (
            ("When did Anna Smith come to this town first?", "Anna Smith came in the spring."),
            ("When did Ben Jones come to this town first?", "Ben Jones came in the spring."),
            "'Ben Jones' where that has 'Anna Smith'",
        ),
    ],
)
def test_rows_that_differ_in_one_name_are_reported_and_kept(tmp_path, row, other, name):
    table = table_of(tmp_path, row, other, valid=[("Else?", "Nothing at all.")])
    assert found(table) == [(f"the same as {tmp_path}/train.jsonl, line 1, but for {name}", 0)]
    assert kept(tmp_path, table) == 2


def test_an_evaluation_row_with_another_name_is_a_leak(tmp_path):
    row, other = ("Anna has 3 apples", "Anna has three."), ("Ben has 3 apples", "Ben has three.")
    ((said, drop),) = found(table_of(tmp_path, row, test=[other]), "near_leaks")
    assert said.endswith("but for 'Ben' where that has 'Anna', which is trained on")
    assert drop == 0


@pytest.mark.parametrize(
    ("row", "other"),
    [
        (("What is the capital of France?", "Paris is."), ("What is the capital of Spain?", "Madrid is.")),
        (("How do I make a bomb?", LONG), ("How do I make a gun?", LONG)),
        (("Add 3 and 4 for me now, please.", "It is 7."), ("Add 5 and 4 for me now, please.", "It is 9.")),
        (("Anna saw Ben there today.", "Anna did."), ("Ben saw Anna there today.", "Ben did.")),
        (("Is Anna here or is Anna not?", "Anna is."), ("Is Ben here or is Anna not?", "Ben is.")),
        (("我有三个苹果，你有几个苹果呢？", "我有三个苹果。"), ("我有四个苹果，你有几个苹果呢？", "我有四个苹果。")),
    ],
)
def test_rows_that_say_something_else_are_not_near(tmp_path, row, other):
    assert found(table_of(tmp_path, row, other)) == []


def test_what_a_cleaned_copy_drops(tmp_path):
    question = f"{LONG} What would you say to that, Anna?"
    answer = "There is much to be said for it, and a little against it, so that I would not decide before tomorrow."
    rows = [
        (question, f"Anna, {answer}"),
        (question.replace("glad", "happy"), f"Anna, {answer.replace(' so that', ' and')}"),
        (question.replace("Anna", "Ben"), f"Ben, {answer}"),  # its answer follows the name in its prompt
    ]
    table = table_of(tmp_path, *rows)
    assert [drop for _, drop in found(table)] == [1, 0]
    assert kept(tmp_path, table) == 2


def test_a_leak_is_found_where_an_evaluation_row_is_nearer(tmp_path):
    words = [f"word{i}" for i in range(80)]
    trained = " ".join(words)
    one, two = (" ".join([*words[:-n], *["other"] * n]) for n in (3, 2))
    table = table_of(tmp_path, (trained, "So it is."), test=[(one, "So it is."), (two, "So it is.")])
    assert [said.split(" the same as ")[1] for said, _ in found(table, "near_leaks")] == [
        f"{tmp_path}/train.jsonl, line 1, which is trained on"
    ] * 2


def varied(random, words, row, changes):
    """The row with this many words of prompt and of answer replaced."""
    sides = []
    for text, count in zip(row, changes, strict=True):
        parts = text.split()
        for place in random.sample(range(len(parts)), count):
            parts[place] = random.choice(words)
        sides.append(" ".join(parts))
    return tuple(sides)


def bigrams(text):
    """Word bigrams by the definition, the n-th of a kind with its number."""
    words = ["", *text.split(), ""]
    seen = Counter()
    numbered = set()
    for pair in pairwise(words):
        numbered.add((*pair, seen[pair]))
        seen[pair] += 1
    return numbered


def jaccard(a, b):
    return len(a & b) / len(a | b)


def test_recall_and_precision_around_the_threshold():
    """Every pair found is above the threshold, by brute force; of those above it, none is missed."""
    chance = random.Random(11)
    words = [f"w{i}" for i in range(3000)]
    rows = []
    for _ in range(120):
        base = tuple(" ".join(chance.choices(words, k=length)) for length in (40, 60))
        rows += [base, *(varied(chance, words, base, (chance.randrange(5), chance.randrange(7))) for _ in range(3))]
        rows.append((base[0], " ".join(chance.choices(words, k=60))))
        rows.append((" ".join(chance.choices(words, k=40)), base[1]))
    grams = [[bigrams(text) for text in row] for row in rows]

    def similarity(i, j):
        return min(jaccard(a, b) for a, b in zip(grams[i], grams[j], strict=True))

    pairs = near_pairs(rows)
    assert all(similarity(i, j) == pytest.approx(s) and s >= BIGRAMS_ALIKE and j < i for i, j, s in pairs)
    near = {i for i, _, _ in pairs}
    alone = [i for i in range(len(rows)) if i not in near]
    missed = [i for i in alone if any(similarity(i, j) >= BIGRAMS_ALIKE for j in alone if j < i)]
    assert len(near) > 100
    assert len(alone) > 300
    assert missed == []


def renamed_by_brute_force(rows):
    """(i, the first j) by the definition, for words in lower case."""
    split = [[tokens(text) for text in row] for row in rows]
    pairs = []
    for i, (prompt, answer) in enumerate(split):
        for j in range(i):
            if [len(side) for side in split[j]] != [len(prompt), len(answer)]:
                continue
            mine, other = prompt + answer, split[j][0] + split[j][1]
            changed = {(a, b) for a, b in zip(mine, other, strict=True) if a != b}
            if len(changed) != 1:
                continue
            ((name, replaced),) = changed
            places = [place for place, word in enumerate(mine) if word == name]
            least = LEAST_WORDS if max(places) >= len(prompt) else LEAST_WORDS_ALONE
            if places == [p for p, word in enumerate(other) if word == replaced] and places[0] < len(prompt) >= least:
                pairs.append((i, j))
                break
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_names_are_found_as_by_brute_force(seed):
    chance = random.Random(seed)
    words = ["anna", "ben", "carla", "dora", "goes", "home", "sees"]
    rows = []
    for _ in range(300):
        row = [chance.choices(words, k=chance.choice(lengths)) for lengths in ((3, 4, 9), (1, 4))]
        name = row[0][0]
        other = chance.choice([word for word in words if word not in row[0] + row[1]] or words)
        renamed = [[other if word == name else word for word in side] for side in row]
        once = [[*side[:-1], chance.choice(words)] for side in row]
        rows += [tuple(map(" ".join, sides)) for sides in (row, renamed, [renamed[0], row[1]], once)]
    rows = list(dict.fromkeys(rows))
    expected = renamed_by_brute_force(rows)
    assert 50 < len(expected) < len(rows) / 2
    assert [(i, j) for i, j, _, _ in renamed_pairs(rows)] == expected
