"""Case files in each of their formats, and one sentence for a line that is not a case."""

from __future__ import annotations

import json

import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation.cases import Case, read_cases, with_systems

USER = {"role": "user", "content": "Why?"}
SYSTEM = {"role": "system", "content": "Be kind."}
ANSWER = {"role": "assistant", "content": "Because."}


@pytest.fixture
def read(tmp_path):
    def cases(*rows):
        file = tmp_path / "cases.jsonl"
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return read_cases(file)

    return cases


@pytest.mark.parametrize(
    ("row", "case"),
    [
        ({"id": "a", "prompt": "Why?"}, Case("a", [USER])),
        ({"id": 7, "prompt": "Why?", "expect": ["x"], "tags": ["t"]}, Case("7", [USER], ["x"], ["t"])),
        ({"id": "a", "messages": [USER]}, Case("a", [USER])),
        # Several turns: the answers before are part of the question.
        (
            {"id": "a", "messages": [USER, ANSWER, USER], "expect": "x"},
            Case("a", [USER, ANSWER, USER], "x"),
        ),
        ({"id": "a", "messages": [USER, ANSWER, USER]}, Case("a", [USER, ANSWER, USER])),
        ({"id": "a", "prompt": "Why?", "system": "Be kind."}, Case("a", [SYSTEM, USER])),
        # Inspect's Sample, whose fields without a value are null.
        (
            {"id": 1, "input": "Why?", "target": "x", "metadata": {"shape": "s"}, "choices": None, "files": None},
            Case("1", [USER], "x", ["s"], {"shape": "s"}),
        ),
        ({"id": "a", "input": [USER], "target": ["x", "y"], "metadata": None}, Case("a", [USER], ["x", "y"])),
        # A row of a dataset.
        (
            {"messages": [USER, ANSWER], "weight": 1.0, "meta": {"task_type": "t"}},
            Case("1", [USER], "Because.", ["t"], {"task_type": "t"}),
        ),
        (
            {"messages": [USER, ANSWER, USER, ANSWER], "meta": {"item_id": "r"}},
            Case("r", [USER, ANSWER, USER], "Because.", [], {"item_id": "r"}),
        ),
    ],
)
def test_formats(read, row, case):
    assert read(row) == [case]


def test_a_case_has_one_system_prompt():
    own = [{"role": "system", "content": "own"}, USER]
    cases = with_systems([Case("a", own), Case("b", [USER])], "suite's")
    assert [case.messages[0]["content"] for case in cases] == ["own", "suite's"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x"}, "the case has no id"),
        ({"id": "", "prompt": "x"}, "the case has no id"),
        ({"id": True, "prompt": "x"}, "the case has no id"),
        ({"id": None, "prompt": "x"}, "the case has no id"),
        ({"id": "a", "prompt": "x"}, "the id 'a' is that of"),
        ({"id": "b"}, "a case needs one of prompt, messages and input, and has 0"),
        ({"id": "b", "prompt": "x", "input": "y"}, "and has 2 of them"),
        ({"id": "b", "prompt": " "}, "the prompt is empty"),
        ({"id": "b", "prompt": "x", "expected": "y"}, "a case has no key 'expected'"),
        ({"id": "b", "prompt": "x", "tags": "t"}, "tags must be a list of texts"),
        ({"id": "b", "prompt": "x", "metadata": []}, "metadata must be an object"),
        ({"id": "b", "prompt": "x", "system": 3}, "system must be text"),
        ({"id": "b", "messages": []}, "messages must be a list of at least one message"),
        ({"id": "b", "messages": [USER, ANSWER], "expect": "x"}, "the last message must be the user's or a tool's"),
        ({"id": "b", "messages": [{"role": "wizard", "content": "x"}]}, "the role 'wizard' is unknown"),
        ({"messages": [ANSWER]}, "nothing is before the answer"),
        ({"id": "b", "prompt": {"a": 1}}, "prompt must be a list"),
        ('{"id": "b", "prompt": "x", "expect": NaN}', "a number that is not finite"),
        ([1], "a case is a JSON object"),
        ("{", "this is not JSON"),
    ],
)
def test_a_line_that_is_no_case_is_one_sentence(read, row, said):
    with pytest.raises(UserError) as error:
        read({"id": "a", "prompt": "x"}, row)
    assert said in str(error.value)
    assert ", line 2: " in str(error.value)
    assert "\n" not in str(error.value)


def test_ids_that_are_alike(read):
    with pytest.raises(UserError, match=r"line 2: the id '1' is that of .*, line 1 too"):
        read({"id": 1, "prompt": "x"}, {"id": "1", "prompt": "y"})


def test_no_case_at_all(read, tmp_path):
    with pytest.raises(UserError, match="the file holds no case"):
        read("", "  ")
    with pytest.raises(UserError, match="no such file"):
        read_cases(tmp_path / "absent.jsonl")
