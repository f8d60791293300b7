"""The decision on each new row: learned, looked up, refused or left out."""

from __future__ import annotations

import pytest

from mlx_lora.data.dataset import Example
from mlx_lora.sleep.config import IndexConfig
from mlx_lora.sleep.stores.lookup import FORBIDDEN, LIKELY, MARKED, NOT_LEARNED, PERSONAL, REFUSED, decide, text_of
from mlx_lora.sleep.stores.reading import Row

INDEX = {facts: IndexConfig("index", facts) for facts in ("marked", "likely")}
KEY = "token = 'Zx81kQ0vT7pLm4WcR2sD'"


def row(answer, identity="one", prompt="On which port?", **meta):
    said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Row(identity, "day", identity, Example(said, meta=meta))


def fate(one, index):
    """("learn" or "look_up" or "left_out", reason or None)."""
    found = decide([one], index)
    assert len(found.learn) + len(found.look_up) + sum(len(each.rows) for each in found.left_out) == 1
    if found.look_up:
        return "look_up", found.indexed[0].reason
    return ("learn", None) if found.learn else ("left_out", found.left_out[0].reason)


@pytest.mark.parametrize(
    ("one", "without", "marked", "likely"),
    [
        (row("It rains."), "learn", "learn", "learn"),
        (row("8443"), "learn", "learn", LIKELY),
        (row("It rains.", verbatim=True), "learn", MARKED, MARKED),
        (row("It rains.", verbatim=False), "learn", "learn", "learn"),
        (row("It rains.", ok_to_train=False), FORBIDDEN, NOT_LEARNED, NOT_LEARNED),
        (row("It rains.", ok_to_train="no"), FORBIDDEN, NOT_LEARNED, NOT_LEARNED),
        (row("It rains.", ok_to_train=False, ok_to_retrieve=False), FORBIDDEN, FORBIDDEN, FORBIDDEN),
        (row("It rains.", verbatim=True, ok_to_retrieve=False), "learn", FORBIDDEN, FORBIDDEN),
        # A guess does not keep a row from being learned that must not be looked up.
        (row("8443", ok_to_retrieve=False), "learn", "learn", "learn"),
        (row("Ask mira@lumen.io."), "learn", PERSONAL, PERSONAL),
        (row(f"It is {KEY}"), "learn", REFUSED, REFUSED),
        (row("It is " + KEY.replace("en =", "e\0n =")), "learn", REFUSED, REFUSED),
        (row(f"It is {KEY}", verbatim=True), "learn", REFUSED, REFUSED),
    ],
)
def test_each_row(one, without, marked, likely):
    reasons = [(fate(one, index)) for index in (None, INDEX["marked"], INDEX["likely"])]
    assert [reason or kind for kind, reason in reasons] == [without, marked, likely]


def test_rows_are_named_without_secrets_and_addresses():
    found = decide(
        [
            row("No.", "a", f"Is {KEY} right?"),
            row("Yes.", "b", "Is mira@lumen.io right?"),
            row("8443", "c"),
            row("8444", "d"),
        ],
        INDEX["likely"],
    )
    assert found.refused == ["a"]
    assert found.left_out[0].rows == ["a: a likely token (Zx81…, 20 characters)"]
    names = {each.reason: each.rows for each in found.indexed}
    assert names[PERSONAL] == ["b: Is [e-mail address] right?"]
    assert names[LIKELY] == ["c: On which port? (100% of its words)", "d: On which port? (100% of its words)"]


def test_the_text_of_a_document():
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Read it"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "read"}}]},
    ]
    assert text_of(Example(said)) == 'Read it\n\n[{"function": {"name": "read"}}]'
