"""Word differences of answers."""

import time

import pytest

from mlx_lora.evaluation.views.answer_diff import word_diff


def show(pieces):
    return "".join(f"[{text}]" if marked else text for marked, text in pieces)


@pytest.mark.parametrize(
    ("a", "b", "shown_a", "shown_b"),
    [
        ("one two three", "one 2 three", "one [two] three", "one [2] three"),
        ("a plan", "a plan\n\n## Do\nit", "a plan", "a plan\n\n[## Do\nit]"),
        ("if x:\n  y", "if x:\n    y", "if x:\n  [y]", "if x:\n    [y]"),
        ("end", "end ", "end", "end[ ]"),
        ("", "all", "", "[all]"),
        ("same words", "same words", "same words", "same words"),
        ("\n x the the y", "\n the z the y", "\n [x the] the y", "\n [the z] the y"),
    ],
)
def test_words_that_the_other_answer_lacks_are_marked(a, b, shown_a, shown_b):
    assert tuple(map(show, word_diff(a, b))) == (shown_a, shown_b)


@pytest.mark.parametrize("line", [" the same again", "\nthe same again"])
def test_a_loop_of_words_is_compared_in_time_and_nothing_is_lost(line):
    a, b = "start" + line * 20_000 + " x end", "start" + line * 19_000 + " other\n y end"
    before = time.monotonic()
    found = word_diff(a, b)
    assert time.monotonic() - before < 30
    assert ["".join(text for _, text in pieces) for pieces in found] == [a, b]
    assert [(pieces[0][0], pieces[-1]) for pieces in found] == [(False, (False, " end"))] * 2
    assert all(any(marked for marked, _ in pieces) for pieces in found)
