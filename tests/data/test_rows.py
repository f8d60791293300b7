"""The tolerant reader: every dialect, and every malformed line named."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lora.data import jsonl
from mlx_lora.data.dataset import Span
from mlx_lora.data.formats import DataRow, read_rows
from mlx_lora.errors import UserError

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def read(tmp_path, *lines) -> list[DataRow]:
    """Rows of a file of these lines: bytes and text as they are, all else as JSON."""
    raw = [x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode() for x in lines]
    (tmp_path / "f.jsonl").write_bytes(b"\n".join(raw))
    return list(read_rows(tmp_path / "f.jsonl"))


@pytest.mark.parametrize(
    ("row", "dialect", "contents"),
    [
        ({"messages": [USER, ANSWER]}, "messages", ["hi", "hello"]),
        ({"instruction": "a", "input": "b", "output": "c"}, "instruction", ["a\n\nb", "c"]),
        ({"instruction": "a", "input": None, "output": ""}, "instruction", ["a", ""]),
        ({"system": "s", "instruction": "a", "output": "c"}, "instruction", ["s", "a", "c"]),
        ({"prompt": "a", "completion": "b"}, "completion", ["a", "b"]),
        ({"text": "a poem"}, "text", ["a poem"]),
        ({"text": "Below.\n\n### Instruction:\na\n\n### Response:\nb</s>"}, "text", ["a", "b</s>"]),
        ({"text": "### Instruction:\na\n\n### Input:\nb\n\n### Response:\nc"}, "text", ["a\n\nb", "c"]),
    ],
)
def test_every_dialect(tmp_path, row, dialect, contents):
    (read_row,) = read(tmp_path, row)
    assert read_row.error is None
    assert read_row.dialect == dialect
    assert [m["content"] for m in read_row.messages] == contents
    assert read_row.messages[-1]["role"] == "assistant"


def test_what_else_a_row_says(tmp_path):
    spans = [{"message": 1, "start": 0, "end": 2, "weight": 3.0}]
    first, second, third = read(
        tmp_path,
        {"task_type": "x", "instruction": "a", "output": "b", "metadata": {"sample_id": 3}},
        "",
        {"messages": [USER, ANSWER], "weight": 0.5, "meta": {"a": 1}, "spans": spans},
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "x"}]}]},
    )
    assert first.meta == {"task_type": "x", "sample_id": 3}
    assert (second.weight, second.meta, second.spans) == (0.5, {"a": 1}, [Span(1, 0, 2, 3.0)])
    assert second.where == f"{tmp_path / 'f.jsonl'}, line 3"
    assert second.example().messages == [USER, ANSWER]
    assert third.error is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": [{"role": "user", "conte', "this is not JSON"),
        (b'{"text": "\xff\xfe"}', "byte 11 is not UTF-8"),
        ('{"text": "\\ud800"}', "an unpaired surrogate"),
        ("[" * 100_000, "JSON"),
        ("9" * 10_000, "a number or a nesting without end"),
        ("3", "this is a number"),
        ({"a": 1}, "a row has messages, conversations, instruction and output"),
        ({"instruction": "a"}, "output is missing"),
        ({"instruction": "a", "output": ["b"]}, "output must be text, not a list"),
        ({"prompt": "a"}, "completion is missing"),
        ({"messages": "hi"}, "messages is text that is not JSON"),
        ({"messages": [USER]}, "no assistant message"),
        ({"messages": [USER, {"role": "robot", "content": "a"}]}, "the role 'robot' is unknown"),
        ({"messages": [USER, {"role": ["user"], "content": "a"}]}, "is unknown"),
        ({"messages": [USER, {"role": "assistant"}]}, "the assistant message has no text"),
        ({"messages": [USER, ANSWER], "weight": -1}, "the weight -1"),
        ('{"text": "a", "weight": NaN}', "the weight nan"),
        ('{"text": "a", "weight": 1' + "0" * 400 + "}", "the weight 1000"),
        ({"messages": [USER, ANSWER], "meta": [1]}, "meta must be an object"),
        ({"messages": [USER, ANSWER], "spans": [{"message": 0}]}, "a span is"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path, line, said):
    before, bad, after = read(tmp_path, {"text": "a"}, line, {"text": "b"})
    assert (before.error, after.error) == (None, None)
    assert said in bad.error
    assert "\n" not in bad.error
    assert (bad.line, bad.messages) == (2, [])


def test_a_json_array_is_read_up_to_its_fault(tmp_path):
    first, second = read(tmp_path, "[", '{"text": "a"}', "]x")
    assert (first.messages[0]["content"], first.where) == ("a", f"{tmp_path / 'f.jsonl'}, row 1")
    assert "Extra data after the array, line 3 of the file" in second.error
    assert [r.error for r in read(tmp_path, [{"text": "a"}, {"text": "b"}])] == [None, None]
    good, bad = read(tmp_path, '[{"text": "a"}, {"text": }, {"text": "c"}]')
    assert (good.error, bad.line) == (None, 2)
    assert "nothing after it was read" in bad.error


def test_a_byte_order_mark_and_odd_line_separators(tmp_path):
    first, second = read(tmp_path, b'\xef\xbb\xbf{"text": "a"}\r', '{"text": "b\u2028c"}'.encode())
    assert (first.error, second.messages[0]["content"]) == (None, "b\u2028c")


def test_lines_of_10_mb_are_read_and_longer_ones_passed_over(tmp_path, monkeypatch):
    big = "x" * 10_000_000
    assert read(tmp_path, {"text": big})[0].messages[0]["content"] == big
    assert "not JSON" in read(tmp_path, '{"text": "' + big)[0].error
    assert read(tmp_path, {"text": "### Instruction:" + " " * 10_000_000})[0].error is None
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1 << 20)
    long, short = read(tmp_path, {"text": big}, {"text": "a"})
    assert "longer than 1 MiB" in long.error
    assert (short.line, short.error) == (2, None)


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("a", "symbolic links"), ("pipe", "not a file"), ("", "not a file"), ("c", "no such")):
        with pytest.raises(UserError, match=said):
            list(read_rows(tmp_path / name))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("messages", "instruction", "input", "output", "prompt", "completion", "text", "weight", "spans", "meta"),
        *("system", "conversations", "history", "tools", "functions", "chat_template_kwargs", "query", "response"),
        *("question", "answer", "chosen", "label", "images", "kto_tag", "documents", "metadata"),
    ]
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": JSON},
    optional=dict.fromkeys(
        (
            "tool_calls",
            "function_call",
            "weight",
            "train",
            "name",
            "tool_call_id",
            "reasoning",
            "thinking",
            "images",
            "x",
        ),
        JSON,
    ),
)
SPAN = st.fixed_dictionaries({k: JSON | st.integers(-2, 5) for k in ("message", "start", "end", "weight")})
LINE = st.binary(max_size=40) | st.dictionaries(KEYS, JSON | st.lists(MESSAGE | SPAN, max_size=3), max_size=5).map(
    lambda row: json.dumps(row).encode()
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINE, max_size=5))
def test_any_bytes_give_rows_or_named_errors(tmp_path_factory, lines):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(b"\n".join(lines))
    try:
        rows = list(read_rows(file))
    except UserError as error:  # bytes that begin as a compressed file or as Parquet
        rows = [DataRow("any.jsonl", 0, error=str(error))]
    for row in rows:
        assert (row.error is None) == bool(row.messages)
        assert row.error is None or "\n" not in row.error
        if row.messages:
            json.dumps(row.example().to_dict(), ensure_ascii=False).encode()
