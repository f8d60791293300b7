"""The rule for verbatim facts: its precision and recall on labelled rows, and what it never takes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mlx_lora.sleep.stores.verbatim import MOST_CODE_LINES, MOST_WORDS, THRESHOLD, fact_share, is_verbatim

ROWS = [json.loads(line) for line in Path(__file__).with_name("verbatim_rows.jsonl").read_text().splitlines()]


def scores(rows):
    """(precision, recall) of the rule."""
    found = [row for row in rows if is_verbatim(row["prompt"], row["answer"])]
    right = sum(row["fact"] for row in found)
    return right / len(found), right / sum(row["fact"] for row in rows)


@pytest.mark.parametrize(
    ("half", "expected"), [("tuned", (11 / 12, 11 / 15)), ("held_out", (14 / 15, 14 / 15)), (None, (25 / 27, 25 / 30))]
)
def test_the_figures_of_the_docs(half, expected):
    assert scores([row for row in ROWS if half in (None, row["half"])]) == pytest.approx(expected)


def test_the_labelled_rows_are_balanced():
    assert (len(ROWS), sum(row["fact"] for row in ROWS)) == (60, 30)
    assert len({row["prompt"] for row in ROWS}) == 60


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("8443", 1),
        ("It is 30 ms.", 1),
        ("On 14 March 2025.", 1),
        ("`git push --force`", 1),
        ("https://a.example/b and /etc/hosts", 1),
        ("v2.4.1 of load_adapters", 1),
        ("Warm, quiet rain.", 0),
        # Three words that are none, and one that is.
        ("Warm quiet rain 8443", 0.25),
        ("", 0),
    ],
)
def test_the_share_of_facts(answer, share):
    assert fact_share("What is it?", answer) == share


def test_words_of_the_prompt_are_not_counted():
    assert fact_share("Where does the server listen?", "The server: port 8443") == 0.5
    assert fact_share("On which port does the server listen?", "The server: port 8443") == 1


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Write the number", "8443"),
        ("What call is it?", '{"tool_calls": [{"name": "read_file", "parameters": {"path": "a/b.py"}}]}'),
        ("Which code?", "```py\n" + "x_1 = y_2\n" * (MOST_CODE_LINES + 1) + "```"),
        ("Which numbers?", "8443 " * (MOST_WORDS + 1)),
        ("Which digits?", "8" * 100_000),
    ],
)
def test_work_forms_and_long_answers_are_learned(prompt, answer):
    assert fact_share(prompt, answer) == 0


def test_any_text_has_a_share():
    draw = random.Random(0)
    letters = "ab1_`-./:[]{}(\\\n ä\ud800\0"
    for _ in range(2000):
        prompt, answer = ("".join(draw.choices(letters, k=draw.randrange(200))) for _ in "pa")
        assert 0 <= fact_share(prompt, answer) <= 1
    assert 0 < THRESHOLD < 1


def test_lines_of_fields_are_a_form(rows):
    """Trajectories are answered in fields with identifiers, which are learned."""
    found = [
        example
        for examples in rows.values()
        for example in examples
        if is_verbatim(example.messages[-2]["content"], example.messages[-1]["content"])
    ]
    assert not found
    assert is_verbatim("What is the host?", "Host: 10.0.0.1")
    assert not is_verbatim("What is the host?", "Host: 10.0.0.1\nPort: 8443")
