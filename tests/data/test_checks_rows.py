"""Each check that needs no model: a case that it finds, and one that it leaves alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mlx_lora.data.checks import CHECKS, Table, check_table, read_table
from mlx_lora.data.checks.answers import looks_cut
from mlx_lora.data.checks.cleaning import write_fixed
from mlx_lora.data.checks.dataset_table import split_of
from mlx_lora.data.checks.pii import secrets_in
from mlx_lora.data.dedup import near_pairs
from mlx_lora.errors import UserError

WORDS = "the quick brown fox jumps over a lazy dog while seven grey cats watch from the warm roof of an old barn"


def row(prompt="What is it?", answer="It is what it is.", **meta):
    return {"instruction": prompt, "output": answer, "metadata": meta}


def found(tmp_path, **files) -> dict[str, list[str]]:
    """check -> examples, of a directory of these files' rows."""
    for name, rows in files.items():
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    findings = check_table(read_table([tmp_path]))
    assert all(f.count >= len(f.examples) > 0 for f in findings)
    return {f.check: f.examples for f in findings}


FINE = [row("Say one.", "The first is one."), row("Say two.", "Number two, with nothing in common.")]
MANY = [row(f"Name number {i} of all.", "The same old answer.") for i in range(4)]
KEY = "AKIA" + "Q3Z7K2M9X4B6N8P5"[:16].replace("9", "2").replace("8", "3")

TURNS = [{"role": "user", "content": "Say one."}, {"role": "assistant", "content": "The first is one."}]

CASES = {
    "malformed": ({"train": [*FINE, "{nonsense"]}, {"train": FINE}),
    "empty_answer": ({"train": [*FINE, row(answer=" ")]}, {"train": FINE}),
    "unknown_message_keys": (
        {"train": [{"messages": [TURNS[0], {**TURNS[1], "mood": "good"}]}]},
        {"train": [{"messages": [TURNS[0], {**TURNS[1], "name": "Ann", "weight": 0.5, "reasoning": "so"}]}]},
    ),
    "leaked_rows": ({"train": FINE, "test": [FINE[0]]}, {"train": FINE, "test": [row("Say three.", "Three, then.")]}),
    "leaked_prompts": (
        {"train": FINE, "valid": [row("Say  one.", "Another answer.")]},
        {"train": FINE, "valid": [row()]},
    ),
    "near_leaks": (
        {"train": [row(WORDS, WORDS)], "test": [row(WORDS + " now", WORDS)]},
        {"train": FINE, "test": [row()]},
    ),
    "shared_documents": (
        {"train": [row(pdca_id="a")], "test": [row("Else?", "No, nothing.", documents=["a", "b"])]},
        {"train": [row(source="generated")], "test": [row("Else?", "No, nothing.", source="generated")]},
    ),
    "never_train": ({"train": [row(never_train=True)]}, {"train": [row(never_train=False)]}),
    "is_eval": (
        {"train": [row(is_eval="true")]},
        {"train": [row()], "test": [row("Else?", "No, nothing.", is_eval=True)]},
    ),
    "is_negative_example": ({"train": [row(is_negative_example=True)]}, {"train": [row(is_negative_example="false")]}),
    "contradictory_answers": (
        {"train": [row(), row(answer="Wrong, all wrong.", task_type="tool_neg")]},
        {"train": [row(task_type="negotiation"), row(answer="Another one, also right.", task_type="b")]},
    ),
    "negative_equals_positive": (
        {"train": [row(answer='{"a": [1, 2.0]}'), row(answer='{"a":[1,2]}', task_type="tool_neg")]},
        {"train": [row(answer='{"a": [1, 2]}'), row(answer='{"a": [2, 1]}', task_type="tool_neg")]},
    ),
    "no_validation_rows": ({"train": FINE, "test": [row()]}, {"train": FINE, "valid": [row()]}),
    "control_like_text": (
        {"train": [row(answer="It is what it is [<|cit|>].")]},
        {"train": [row(answer="It is f <| x |> g, <b>no</b> more.")]},
    ),
    "several_answers": ({"train": [row(), row(answer="Or something else.")]}, {"train": [row(), row()]}),
    "one_answer": ({"train": MANY}, {"train": MANY[:3] + MANY[:3]}),
    "mostly_copies": ({"train": FINE * 60}, {"train": FINE * 50}),
    "exact_duplicates": ({"train": [*FINE, FINE[0]]}, {"train": FINE, "test": [row()]}),
    "near_duplicates": (
        {"train": [row(WORDS, WORDS), row(WORDS, WORDS + " now")]},
        {"train": [row(WORDS + WORDS, "Yes, it is."), row(WORDS + WORDS, "No, it is not.")]},
    ),
    "short_answer": ({"train": [row(answer="Yes.")]}, {"train": [row(answer="Yes, it is.")]}),
    "cut_answer": ({"train": [row(answer="It was late. He went to the door and then")]}, {"train": FINE}),
    "secrets": (
        {"train": [row(answer=f"Use the key {KEY} for that.")]},
        {"train": [row(answer="Use AKIAIOSFODNN7EXAMPLE.")]},
    ),
    "email_addresses": (
        {"train": [row("Who is a.b@firm.de?")]},
        {"train": [row("Who is me@example.com, or @mail.me?")]},
    ),
    "duplicate_sample_id": (
        {"train": [row(sample_id=3), row("Else?", "No, nothing.", sample_id="3")]},
        {"train": [row(sample_id=3), row("Else?", "No, nothing.", sample_id=4)]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_check_finds_its_case_and_leaves_the_other_alone(tmp_path, name):
    bad, good = CASES[name]
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    hits = found(tmp_path / "bad", **bad)[name]
    assert (".jsonl, line " in hits[0]) == (name != "no_validation_rows")
    assert name not in found(tmp_path / "good", **good)


def test_every_check_has_its_case_here_or_beside():
    beside = {"bucket_counts", "unknown_message_keys", *(check.name for check in CHECKS if check.needs == "base")}
    assert {check.name for check in CHECKS} == set(CASES) | beside
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_a_negative_that_equals_the_positive_is_no_contradiction(tmp_path):
    """Each negative row is named once: as equal to a positive of its prompt, or as against it."""
    call = [{"function": {"name": "ls", "arguments": '{"path":"."}'}}]
    spaced = [{"function": {"name": "ls", "arguments": '{ "path": "." }'}}]
    asked = {"role": "user", "content": "List it."}
    called = [{"messages": [asked, {"role": "assistant", "content": None, "tool_calls": c}]} for c in (call, spaced)]
    called[1]["meta"] = {"task_type": "tool_neg"}
    rows = [
        row("One?", '{"b": 1, "a": " x"}'),
        row("One?", '{"a":" x","b":1}', task_type="tool_neg"),
        row("One?", '{"a":"x","b":1}', task_type="tool_neg"),
        row("Two?", "It is  so."),
        row("Two?", "It is so.", task_type="tool_neg"),
        *called,
    ]
    examples = found(tmp_path, train=rows)
    places = {name: [said.partition("line ")[2][:1] for said in some] for name, some in examples.items()}
    assert places["negative_equals_positive"] == ["2", "5", "7"]
    assert places["contradictory_answers"] == ["3"]
    assert "several_answers" not in places
    table = read_table([tmp_path])
    assert write_fixed(tmp_path / "fixed", table, check_table(table))["kept"] == 3


def test_loose_files_have_no_validation_split(tmp_path):
    assert "no_validation_rows" not in found(tmp_path, style_core=FINE)


def test_buckets_against_a_plan(tmp_path):
    (tmp_path / "style_core.jsonl").write_text(json.dumps(row()) + "\n")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row(task_type=t)) + "\n" for t in "xxy"))
    table = read_table([tmp_path])
    table.plan = {"style_core": 1, "x": 3, "z": 2}
    (finding,) = [f for f in check_table(table) if f.check == "bucket_counts"]
    assert finding.examples == [
        f"{tmp_path}/b.jsonl: 2 rows of the bucket x, and the plan says 3",
        "0 rows of the bucket z, and the plan says 2",
        f"{tmp_path}/b.jsonl: 1 rows of the bucket y, which the plan does not know",
    ]
    table.plan, table.stated_total = {"style_core": 1, "x": 2, "y": 1}, 5
    (finding,) = [f for f in check_table(table) if f.check == "bucket_counts"]
    assert finding.examples == ["the plan's buckets sum to 4 rows, and it states a total of 5"]


def test_rows_of_weight_0_are_not_trained_on(tmp_path):
    spare = {**row(never_train=True), "weight": 0}
    assert (
        found(
            tmp_path,
            train=[spare, *FINE],
            valid=FINE[:0] or [row(answer="It is another answer, held out.")],
            test=[spare],
        )
        == {}
    )


def test_a_secret_is_never_repeated_whole(tmp_path):
    (said,) = found(tmp_path, train=[row(answer=f"Take {KEY}.")])["secrets"]
    assert KEY not in said
    assert "AKIA" in said


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq3\nx9Zk==", "a private key"),
        ("ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "a GitHub token"),
        ("sk-ant-api03-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4", "a key of OpenAI or Anthropic"),
        ("xoxb-" + "123456789012-abcDEF456ghi", "a Slack token"),
        ('{"api_key": "9f8e7d6c5b4a39281706f5e4d3c2b1a0"}', "a password or key"),
        ("password = 'hunter2'", None),
        ("sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx", None),
        ("ask-the-way-to-the-next-railway-station-please", None),
        ("-----BEGIN PRIVATE KEY----- is how such a file begins", None),
        ("api_key = 'your-api-key-goes-here'", None),
    ],
)
def test_secrets_and_what_only_looks_like_one(text, kind):
    assert [name for name, _ in secrets_in(text)] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("answer", "cut"),
    [
        ("It was late. He went to the door and then", True),
        ("It was late. He bought bread, milk and eggs, some cheese,", True),
        ("It was late. He went to the door and left.", False),
        ("```python\nprint(1)", True),
        ("```python\nprint(1)\n```", False),
        ("<think>so it", True),
        ('{"tool_calls": [{"name": "rea', True),
        ('{"tool_calls": []}', False),
        ("{curly} is not JSON at all", False),
        ("A title without a full stop", False),
        ("There are three. These are they:\n- one of them\n- another one of them here", False),
        ("It supports it. Both of them say so, I think.\nRELATION: c2 supports c1", False),
    ],
)
def test_answers_that_seem_cut(answer, cut):
    assert bool(looks_cut(answer)) == cut


def test_near_duplicates_of_texts():
    base = [f"w{i}" for i in range(60)]
    texts = [
        " ".join(base),
        " ".join([*base[:59], "other"]),
        " ".join(base[::-1]),
        "我今天去了商店买了很多东西然后回家了",
    ]
    texts += [texts[3] + "吧", "", " "]
    assert [(i, j) for i, j, _ in near_pairs([(text,) for text in texts])] == [(1, 0), (4, 3), (6, 5)]


def test_where_rows_are_from(tmp_path):
    names = {"eval": "test", "claims_dev": "valid", "valid": "valid", "test_generation": "train", "latest": "train"}
    assert {name: split_of(tmp_path / f"{name}.jsonl") for name in names} == names
    for name in ("train", "valid", "other"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row()) + "\n")
    assert [file.stem for file in read_table([tmp_path, tmp_path / "train.jsonl"]).files] == ["train", "valid"]
    (tmp_path / "train.jsonl").unlink()
    assert [file.stem for file in read_table([tmp_path]).files] == ["other", "valid"]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none", tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match="there is no"):
            read_table([path])


@pytest.mark.slow
def test_37_000_rows_take_seconds(tmp_path):
    """Some 7 of CPU time on an idle machine; a busy one must not fail the test, a quadratic check must."""
    import random

    random.seed(3)
    words = [f"word{i}" for i in range(4000)]
    rows, texts = [], []
    for i in range(37_000):
        if i % 4 == 3:
            text = list(random.choice(texts))
            text[5] = f"changed{i}"
        else:
            text = random.choices(words, k=80)
            texts.append(text)
        rows.append(row(" ".join(text[:40]), " ".join(text[40:]), sample_id=i))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    started = time.process_time()
    findings = {f.check: f.count for f in check_table(read_table([tmp_path]))}
    assert time.process_time() - started < 120
    assert findings["near_duplicates"] >= 9000


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["-eyJ", "a@a.", "sk-", "password ", " ", "-----BEGIN PRIVATE KEY-----", "github_pat_", ". ", "```", "[", "é"],
)
def test_no_text_makes_a_check_slow(tmp_path, piece):
    (tmp_path / "train.jsonl").write_text(json.dumps(row(piece * 300_000, "a" + piece * 300_000)) + "\n")
    started = time.process_time()
    check_table(read_table([tmp_path]))
    assert time.process_time() - started < 60


def test_a_table_is_counted():
    assert (Table([]).rows, Table([]).distinct) == (0, 0)


def test_every_check_is_documented():
    docs = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [check.name for check in CHECKS if f"`{check.name}`" not in docs] == []


def test_bare_texts_have_no_prompt_that_could_leak(tmp_path):
    texts = [{"text": f"The {word} lay by the lake for a long time."} for word in ("boat", "stone", "lamp", "bread")]
    assert not {"leaked_prompts", "several_answers"} & found(tmp_path, train=texts[:2], valid=texts[2:]).keys()
