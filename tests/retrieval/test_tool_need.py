"""Detection of tool need, on 200 labelled prompts that are older than it, and on requests that others wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.retrieval.tool_need import tool_need

PROMPTS = [json.loads(line) for line in (Path(__file__).with_name("tool_need_prompts.jsonl")).read_text().splitlines()]
SUITES = Path(__file__).parents[2] / "configs" / "suites" / "prompts"


def f1(prompts):
    found = [(tool_need(row["prompt"]).needed, row["needs_tool"]) for row in prompts]
    right = found.count((True, True))
    return 2 * right / (2 * right + found.count((True, False)) + found.count((False, True)))


def test_the_labelled_set_is_balanced_and_split():
    assert len({row["prompt"] for row in PROMPTS}) == 200
    for half in ("tuning", "held_out"):
        labels = [row["needs_tool"] for row in PROMPTS if row["half"] == half]
        assert (labels.count(True), labels.count(False)) == (50, 50)
    assert {row["ecosystem"] for row in PROMPTS} == {"continue", "cursor", "copilot", "web4_custom"}


@pytest.mark.parametrize("half", ["tuning", "held_out"])
def test_f1_on_the_labelled_prompts(half):
    assert f1([row for row in PROMPTS if row["half"] == half]) >= 0.95


def test_the_published_requests(realdata):
    def requests(name):
        lines = (realdata / "instructions" / f"{name}.jsonl").read_text().splitlines()
        return sorted({json.loads(line)["instruction"] for line in lines})

    needed = [*requests("tool_core"), *requests("tool_neg")]
    assert [text for text in needed if not tool_need(text).needed] == []
    answered = [*requests("style_core"), *requests("guardrail")]
    assert [text for text in answered if tool_need(text).needed] == []


@pytest.mark.parametrize("suite", ["empty_constructor", "first_attempt", "tron_format", "pdca_schema"])
def test_published_suites_that_ask_for_text(suite):
    prompts = [json.loads(line)["prompt"] for line in (SUITES / f"{suite}.jsonl").read_text().splitlines()]
    assert sum(tool_need(prompt).needed for prompt in prompts) <= 0.02 * len(prompts)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("Read the Button.tsx file", "Read the Button.tsx file"),
        ("Please create the folder docs", "create folder"),
        ("Check types: `npx tsc --noEmit`", "`npx tsc --noEmit`"),
        ("What does https://example.com/a say?", "https://example.com/a"),
    ],
)
def test_the_reason_is_in_the_prompt(prompt, reason):
    assert tool_need(prompt).reason == reason


@pytest.mark.parametrize(
    "prompt",
    [
        "Fix this:\n```ts\nconst file = readFile('a.ts');\n```",
        "Explain: git push origin main",
        'Translate "Open the file config.json now please" into German',
        "",
        "?",
        "\n\n",
    ],
)
def test_what_the_prompt_brings_is_not_looked_up(prompt):
    assert not tool_need(prompt).needed


@given(st.text())
def test_any_text_is_judged(prompt):
    found = tool_need(prompt)
    assert found.needed == bool(found.reason)


@pytest.mark.parametrize("piece", ["a/", "a.", "which ", "word ", "`", '"', "a:", "@a", "src/", "{;\n", "- "])
def test_long_prompts_do_not_hang(piece):
    assert tool_need(piece * 20_000).needed in (True, False)
