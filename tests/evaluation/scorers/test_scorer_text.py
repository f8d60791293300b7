import json
import time

import pytest

from mlx_lora.evaluation.cases import Case
from mlx_lora.evaluation.scorers import SUMMARIES, CheckSpec, make_scorer
from mlx_lora.evaluation.scorers.answer_text import code_blocks, json_values


@pytest.mark.parametrize(
    ("check", "answer", "reason"),
    [
        ({"contains": "Paris"}, "It is PARIS.", ""),
        ({"contains": ["Rome", "Paris"]}, "It is paris.", ""),
        ({"contains": ["Rome", "Oslo"]}, "Paris", "the answer does not contain any of 'Rome', 'Oslo'"),
        ({"contains": {"texts": "Paris", "case_sensitive": True}}, "paris", "the answer does not contain 'Paris'"),
        ({"contains": "i won't"}, "I won’t.", ""),
        ({"contains_all": ["a", "b"]}, "B and A", ""),
        ({"contains_all": ["a", "x", "y"]}, "a", "the answer lacks 'x', 'y'"),
        ({"not_contains": ["secret", "key"]}, "nothing", ""),
        ({"not_contains": ["secret", "key"]}, "The KEY", "the answer contains 'key'"),
        ({"regex": r"^\d+ apples$"}, "So:\n12 apples\n", ""),
        ({"regex": {"pattern": "yes|no", "whole": True, "ignore_case": True}}, " Yes\n", ""),
        ({"regex": {"pattern": "yes", "whole": True}}, "yes, or no", "the pattern 'yes' does not match the answer"),
        ({"regex": {"pattern": "TODO", "absent": True}}, "TODO", "the pattern 'TODO' is found in the answer"),
        ({"regex": "b+"}, "aaa", "the pattern 'b+' is not found"),
        ({"identity": {"name": "Sprout", "role": "gardener"}}, "I am sprout, a Gardener.", ""),
        ({"identity": {"name": "Al"}}, "I also walk.", "the agent does not say its name ('Al')"),
        ({"identity": {"name": "Al", "tags": "who"}}, "I also walk.", ""),
    ],
)
def test_text(judge, check, answer, reason):
    assert judge(check, answer).reason == reason


def test_texts_come_from_the_case(judge):
    assert judge({"contains_all": None}, "one two", expect=["one", "two"]).passed
    assert judge({"contains_all": None}, "one", expect=["one", "two"]).metrics == {"found": 0.5}
    assert not judge({"contains": {"case_sensitive": True}}, "One", expect="one").passed
    score = judge({"identity": {"name": "Sage"}}, "I am Kim.", expect={"name": "Kim", "role": "cook"})
    assert score.metrics == {"name": 1.0, "role": 0.0}
    assert score.reason == "the agent does not say its role ('cook')"


def test_a_catastrophic_pattern_ends(judge):
    text, start = "a" * 60 + "!", time.monotonic()
    score = judge({"regex": {"pattern": "^(a|a|aa)+$", "time_limit": 0.2}}, text)
    assert score.reason == "the pattern '^(a|a|aa)+$' took more than 0.2 seconds on this answer"
    score = judge({"json_schema": {"schema": {"pattern": "^(a|a|aa)+$"}}}, json.dumps(text))
    assert "took more than 2 seconds" in score.reason
    assert time.monotonic() - start < 60


def test_json_schema(judge, tmp_path):
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 5}}}
    check = {"json_schema": {"schema": schema}}
    for answer in ('{"n": 3}', 'Here:\n```json\n{"n": 3}\n```', 'It is {"n": 3}, as asked.'):
        assert judge(check, answer).passed
    assert judge(check, "three").reason == "the answer holds no JSON"
    assert (
        judge(check, '{"n": 9}').reason == "the answer's JSON is not valid at $.n: '9 is greater than the maximum of 5'"
    )
    assert not judge(check, '{"n": 3').passed
    (tmp_path / "s.json").write_text(json.dumps(schema))
    assert judge({"json_schema": "s.json"}, '{"n": 1}', folder=tmp_path).passed
    assert "holds no JSON" in judge(check, "[" * 100_000).reason


def test_json_within_an_answer():
    assert list(json_values('a {"b": [1]} c [2] {"d"')) == [{"b": [1]}, [2]]
    assert code_blocks("```ts\na\n```\n~~~\n```\nb\n~~~~\n```py x\nc") == [("ts", "a"), ("", "```\nb"), ("py", "c")]


CALL = {"tool_calls": [{"name": "read_file", "parameters": {"path": "a.ts", "n": 1}}]}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (json.dumps(CALL), ""),
        ("Sure.\n```json\n" + json.dumps(CALL, indent=2) + "\n```", ""),
        ('<tool_call>\n{"name": "read_file", "arguments": {"path": " a.ts", "n": 1.0, "x": 0}}\n</tool_call>', ""),
        (
            '{"tool_calls": [{"function": {"name": "read_file", '
            '"arguments": "{\\"path\\": \\"a.ts\\", \\"n\\": 1}"}}]}',
            "",
        ),
        ("I read a.ts.", 'the answer holds no tool call {"tool_calls": [{"name", "parameters"}]}'),
        (
            '{"tool_calls": [{"name": "read_file"',
            'the answer holds no tool call {"tool_calls": [{"name", "parameters"}]}',
        ),
        ('{"name": "rm", "parameters": {}}', "the answer calls 'rm', and read_file is expected"),
        ('{"tool_calls": []}', "the answer calls 'no tool', and read_file is expected"),
        ('{"name": "read_file", "parameters": {"n": 1}}', "read_file: the parameter 'path' is missing"),
        (
            '{"name": "read_file", "parameters": {"path": "a.ts", "n": true}}',
            "read_file: the parameter 'n' is True, and 1 is expected",
        ),
    ],
)
def test_tool_call(judge, answer, reason):
    assert judge({"tool_call": None}, answer, expect=CALL).reason == reason


def test_several_calls_in_any_order_and_none(judge):
    two = [{"name": "f", "parameters": {"a": 1}}, {"name": "f", "parameters": {"a": 2}}]
    assert judge({"tool_call": None}, json.dumps(two[::-1]), expect=two).passed
    assert not judge({"tool_call": None}, json.dumps([two[0], two[0]]), expect=two).passed
    assert judge({"tool_call": None}, json.dumps(two), expect=two[:1]).reason.startswith("the answer calls 'f, f'")
    assert judge({"tool_call": None}, "No tool is needed.", expect={"tool_calls": []}).passed
    assert not judge({"tool_call": None}, json.dumps(two), expect={"tool_calls": []}).passed
    exact = {"tool_call": {"name": "f", "parameters": {"a": 1}, "exact": True}}
    assert judge(exact, '{"name": "f", "parameters": {"a": 1}}').metrics["right_values"] == 1.0
    score = judge(exact, '{"name": "f", "parameters": {"a": 1, "b": 2}}')
    assert score.reason == "f: the parameter 'b' is not expected"
    assert score.metrics == {"parsed": 1.0, "right_tool": 1.0, "right_values": 0.0}


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I cannot help with that.", True),
        ("Sorry, I won’t do it.", True),
        ("  <REFUSAL>\nno\n</REFUSAL>", True),
        ("That is against\npolicy.", True),
        ("Here it is: <REFUSAL>", False),
        ("You can do it so.", False),
    ],
)
def test_refusal(judge, answer, refused):
    assert judge({"refusal": None}, answer, tags=["refuse"]).passed is refused
    assert judge({"refusal": None}, answer, tags=["comply"]).passed is not refused
    assert judge({"refusal": None}, answer, tags=["comply"]).metrics == {"refused": float(refused)}


def test_f1_of_refusals():
    scorer = make_scorer(CheckSpec("refusal", {"markers": "no"}, "s:1"), None, None)
    cases = [Case(str(i), [], tags=["refuse" if i < 4 else "comply"]) for i in range(8)]
    answers = ["no", "no", "no", "yes", "no", "yes", "yes", "yes"]
    scores = [scorer(case, answer) for case, answer in zip(cases, answers, strict=True)]
    assert [score.passed for score in scores] == [True] * 3 + [False] * 2 + [True] * 3
    found = SUMMARIES["refusal"](cases, answers, scores)
    assert found == {"f1": 0.75, "precision": 0.75, "recall": 0.75, "refused": 4}
    assert SUMMARIES["refusal"]([], [], []) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "refused": 0}


def test_real_rows_of_tools_and_guardrails(judge, realdata):
    """Every distinct answer of the real buckets is judged as its bucket says."""
    rows = {
        name: [json.loads(line) for line in (realdata / "instructions" / f"{name}.jsonl").open(encoding="utf-8")]
        for name in ("tool_core", "tool_neg", "guardrail", "style_core")
    }
    outputs = {name: sorted({row["output"] for row in found}) for name, found in rows.items()}
    for name in ("tool_core", "tool_neg"):
        assert all(judge({"tool_call": None}, output, expect=output).passed for output in outputs[name])
    assert all(judge({"refusal": None}, output, tags=["refuse"]).passed for output in outputs["guardrail"])
    assert all(judge({"refusal": None}, output, tags=["comply"]).passed for output in outputs["style_core"])
    assert all(judge({"code": {"language": "typescript"}}, output).passed for output in outputs["style_core"])
