"""Every format and dialect gives the same examples; every key that means something is taken or refused by name."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from mlx_lora.data import jsonl
from mlx_lora.data.dataset import Example, dataset_hashes, read_split, read_trainable, split_files, write_dataset
from mlx_lora.data.formats import read_rows
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
TOOL = {
    "name": "get_light",
    "description": "Read the lamp",
    "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
}


def call(room, arguments=None):
    """OpenAI's form of one call."""
    function = {"name": "get_light", "arguments": {"room": room} if arguments is None else arguments}
    return {"type": "function", "function": function}


# Writers of one list of rows, by the file's name.


def as_cell(value):
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def write_table(path, rows, delimiter=","):
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        writer.writerows([as_cell(row.get(name)) for name in names] for row in rows)


def write_parquet(path, rows):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    names = dict.fromkeys(key for row in rows for key in row)  # pyarrow takes those of the first row alone
    pyarrow.parquet.write_table(pa.Table.from_pylist([{**dict.fromkeys(names), **row} for row in rows]), path)


def write_file(path, rows):
    """Write rows in the format that the name says."""
    name = path.name.removesuffix(".gz")
    plain = path.with_name(f"plain-{name}")
    if name.endswith((".csv", ".tsv")):
        write_table(plain, rows, "\t" if name.endswith(".tsv") else ",")
    elif name.endswith(".parquet"):
        write_parquet(plain, rows)
    elif name.endswith(".json"):
        plain.write_text(json.dumps({"data": rows} if name.startswith("data") else rows, indent=1))
    else:
        plain.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    path.write_bytes(gzip.compress(plain.read_bytes()) if path.name.endswith(".gz") else plain.read_bytes())
    plain.unlink()
    return path


FILES = [
    *("rows.jsonl", "rows.jsonl.gz", "rows.json", "data.json", "data.json.gz", "rows.csv", "rows.csv.gz", "rows.tsv"),
    *("rows.parquet", "rows.parquet.gz"),
]


def conversations(count=60):
    """(system, instruction, input, answer) with line breaks, quotes, commas and letters of many scripts."""
    draw = random.Random(3)
    words = ["light", "über", "a, b", '"quoted"', "x\ny", "日本", "line\tend", "it's", "{brace}", "7"]
    for i in range(count):
        text = [" ".join(draw.choices(words, k=draw.randint(1, 6))) + f" {i}" for _ in range(3)]
        yield "You are Thor." if i % 3 else "", text[0], text[1] if i % 2 else "", text[2]


def dialects():
    """name → the same rows in it."""
    rows = {name: [] for name in ("messages", "parts", "sharegpt", "alpaca", "pairs", "trl", "query", "question")}
    for system, instruction, given, answer in conversations():
        user = "\n\n".join(part for part in (instruction, given) if part)
        start = [{"role": "system", "content": system}] if system else []
        messages = [*start, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        named = {"system": system} if system else {}
        rows["messages"].append({"messages": messages})
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        rows["parts"].append({"messages": [{**p, "role": p["role"].replace("system", "developer")} for p in parts]})
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        turns = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
        rows["sharegpt"].append({"conversations": turns[len(start) :], **named})
        rows["alpaca"].append({"instruction": instruction, "input": given, "output": answer, **named})
        rows["pairs"].append({"prompt": user, "completion": answer, **named})
        rows["trl"].append({"prompt": messages[:-1], "completion": messages[-1:]})
        rows["query"].append({"query": user, "response": answer, **named})
        rows["question"].append({"question": user, "answer": answer, **({"system_prompt": system} if system else {})})
    return rows


def tool_dialects():
    """name → the same conversations with tools in it."""
    rows = {name: [] for name in ("openai", "text", "old", "sharegpt")}
    for i in range(20):
        room, light = f"room {i}", str(i)
        asked, answer = f"How bright is {room}?", f"It is at {light}."
        before = [{"role": "user", "content": asked}]
        after = [{"role": "tool", "content": light, "name": "get_light"}, {"role": "assistant", "content": answer}]
        answered = {"role": "assistant", "content": None}
        wrapped = [{"type": "function", "function": TOOL}]
        text = json.dumps({"room": room})
        rows["openai"].append(
            {"messages": [*before, answered | {"tool_calls": [call(room)]}, *after], "tools": wrapped}
        )
        calls = {"tool_calls": [{"function": {"arguments": text, "name": "get_light"}}]}
        rows["text"].append({"messages": [*before, answered | calls, *after], "tools": json.dumps([TOOL])})
        old = answered | {"function_call": {"name": "get_light", "arguments": text}}
        rows["old"].append({"messages": [*before, old, after[0] | {"role": "function"}, after[1]], "functions": [TOOL]})
        turns = [("human", asked), ("function_call", json.dumps({"name": "get_light", "arguments": {"room": room}}))]
        turns += [("observation", light), ("gpt", answer)]
        said = [{"from": name, "value": value} for name, value in turns]
        said[2]["name"] = "get_light"
        rows["sharegpt"].append({"conversations": said, "tools": json.dumps(wrapped)})
    return rows


@pytest.fixture(scope="module")
def tiny():
    return load_tokenizer("builtin/tiny-lumen")


@pytest.fixture(scope="module")
def with_tools(realdata):
    tokenizer = load_tokenizer("builtin/tiny-lumen")
    tokenizer.chat_template = (realdata / "chat_templates" / "Qwen-Qwen2.5-7B-Instruct.jinja").read_text()
    return tokenizer


def encoded(tokenizer, file):
    rows = list(read_rows(file))
    assert [row.error for row in rows] == [None] * len(rows)
    examples = [encode_example(tokenizer, row.example(), 10**9) for row in rows]
    return [(e.ids.tolist(), e.supervised.tolist()) for e in examples]


@pytest.mark.parametrize("name", FILES)
def test_the_same_rows_through_every_dialect(tmp_path, tiny, name):
    reference = encoded(tiny, write_file(tmp_path / "reference.jsonl", dialects()["messages"]))
    assert len(reference) == 60
    assert all(0 < sum(mask) < len(ids) for ids, mask in reference)
    for dialect, rows in dialects().items():
        assert encoded(tiny, write_file(tmp_path / name, rows)) == reference, dialect


@pytest.mark.parametrize("name", FILES)
def test_the_same_tools_through_every_dialect(tmp_path, with_tools, name):
    reference = encoded(with_tools, write_file(tmp_path / "reference.jsonl", tool_dialects()["openai"]))
    text = with_tools.decode(reference[3][0])
    assert "# Tools" in text
    assert '<tool_call>\n{"name": "get_light", "arguments": {"room": "room 3"}}\n</tool_call>' in text
    for dialect, rows in tool_dialects().items():
        assert encoded(with_tools, write_file(tmp_path / name, rows)) == reference, dialect


def test_a_directory_of_any_format_is_a_dataset(tmp_path):
    rows = dialects()
    write_dataset(
        tmp_path / "reference", {"train": [row.example() for row in read_all(tmp_path, rows["messages"])]}, {}
    )
    reference = read_split(tmp_path / "reference", "train")
    for number, name in enumerate(FILES):
        directory = tmp_path / str(number)
        directory.mkdir()
        write_file(directory / name.replace("rows.", "train.").replace("data.", "train."), rows["alpaca"])
        write_file(directory / "validation.jsonl", rows["pairs"][:2])
        assert read_split(directory, "train") == reference
        assert len(read_split(directory, "valid")) == 2
        hashes = dataset_hashes(directory)
        assert set(hashes) == {"train", "valid"}
        file = split_files(directory)[0][1]
        write_file(file, rows["alpaca"][1:])
        assert dataset_hashes(directory)["train"] != hashes["train"]
    write_file(directory / "train.csv", rows["alpaca"])
    with pytest.raises(UserError, match=r"train.csv and train.parquet.gz are both its train split"):
        read_trainable(directory)


def read_all(tmp_path, rows, name="rows.jsonl"):
    return list(read_rows(write_file(tmp_path / name, rows)))


def test_what_was_read_is_read_again_the_same(tmp_path):
    """The normal form is a fixed point: what is written is read as it was."""
    rows = [
        *(row for rows in dialects().values() for row in rows[:5]),
        *(r for rs in tool_dialects().values() for r in rs),
    ]
    rows += [row for row, _ in KEYS.values()]
    examples = [row.example() for row in read_all(tmp_path, rows)]
    write_dataset(tmp_path / "d", {"train": examples}, {})
    assert read_split(tmp_path / "d", "train") == examples


def chat(*keys, role="assistant", **message):
    """A row of one turn whose message of ``role`` has these keys too."""
    messages = [dict(USER), dict(ANSWER)]
    messages[0 if role == "user" else 1] |= message
    return {"messages": messages}


def normal(**message):
    return {"messages": [USER, {**ANSWER, **message}]}


# key → (a row that has it, what the example is beside the plain one's).
KEYS = {
    "weight": (chat(weight=0.5), normal(weight=0.5)),
    "weight of 1": (chat(weight=1), normal()),
    "train": (
        {"messages": [USER, {**ANSWER, "train": False}, USER, {**ANSWER, "train": True}]},
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
    ),
    "training": (
        {"messages": [USER, {**ANSWER, "training": False}, USER, ANSWER]},
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
    ),
    "loss": (
        {"messages": [USER, {**ANSWER, "loss": False}, USER, ANSWER]},
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
    ),
    "train of a user": (chat(role="user", train=False, weight=0), normal()),
    "name": (chat(name="Ann"), normal(name="Ann")),
    "reasoning_content": (chat(reasoning_content="so"), normal(reasoning_content="so")),
    "reasoning": (chat(reasoning="so"), normal(reasoning_content="so")),
    "thinking": (chat(thinking="so", reasoning="so"), normal(reasoning_content="so")),
    "nulls of an API": (chat(refusal=None, audio=None, tool_calls=None, function_call=None, annotations=[]), normal()),
    "tool_calls": (
        chat(tool_calls=[{"id": "c1", **call("hall", '{"room": "hall"}')}], content=None),
        normal(tool_calls=[{"id": "c1", **call("hall")}], content=None),
    ),
    "bare call": (
        chat(tool_calls=[{"name": "get_light", "arguments": {"room": "hall"}}]),
        normal(tool_calls=[call("hall")]),
    ),
    "no arguments": (
        chat(tool_calls=[{"name": "f"}]),
        normal(tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {}}}]),
    ),
    "function_call": (
        chat(function_call={"name": "get_light", "arguments": '{"room": "hall"}'}),
        normal(tool_calls=[call("hall")]),
    ),
    "tool_call_id": (
        {"messages": [USER, ANSWER, {"role": "function", "content": "4", "tool_call_id": "c1"}]},
        {"messages": [USER, ANSWER, {"role": "tool", "content": "4", "tool_call_id": "c1"}]},
    ),
    "another key of a message": (chat(mood="good"), normal(mood="good")),
    "system": (
        {"messages": [USER, ANSWER], "system": "Be."},
        {"messages": [{"role": "system", "content": "Be."}, USER, ANSWER]},
    ),
    "the same system": (
        {"messages": [{"role": "system", "content": "Be."}, USER, ANSWER], "system": "Be."},
        {"messages": [{"role": "system", "content": "Be."}, USER, ANSWER]},
    ),
    "tools": (chat() | {"tools": [TOOL]}, normal() | {"tools": [{"type": "function", "function": TOOL}]}),
    "no tools": (chat() | {"tools": [], "functions": None}, normal()),
    "functions": (chat() | {"functions": [TOOL]}, normal() | {"tools": [{"type": "function", "function": TOOL}]}),
    "chat_template_kwargs": (
        chat() | {"chat_template_kwargs": {"enable_thinking": False}},
        normal() | {"template_kwargs": {"enable_thinking": False}},
    ),
    "parallel_tool_calls": (
        chat() | {"parallel_tool_calls": False},
        normal() | {"meta": {"parallel_tool_calls": False}},
    ),
    "documents by name": (chat() | {"documents": ["d1"]}, normal() | {"meta": {"documents": ["d1"]}}),
    "no images": (chat() | {"images": [], "kto_tag": None, "history": []}, normal()),
    "labels beside messages": (
        chat() | {"label": True, "answer": "4", "input": "x"},
        normal() | {"meta": {"label": True, "answer": "4", "input": "x"}},
    ),
    "a prompt beside messages": (chat() | {"prompt": "hi", "prompt_id": 3}, normal() | {"meta": {"prompt_id": 3}}),
    "spans of the row's own messages": (
        {"messages": [USER, ANSWER], "system": "Be.", "spans": [{"message": 1, "start": 0, "end": 2, "weight": 3.0}]},
        {"messages": [{"role": "system", "content": "Be."}, USER, ANSWER], "spans": [(2, 0, 2, 3.0)]},
    ),
    "history": (
        {"instruction": "hi", "output": "hello", "history": [["a", "b"]]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, USER, ANSWER]},
    ),
    "Alpaca's own text": (
        {"instruction": "hi", "input": "you", "output": "hello", "text": "# I:\nhi\n\n# In:\nyou\n\n# R:\nhello"},
        {"messages": [{"role": "user", "content": "hi\n\nyou"}, ANSWER]},
    ),
    "context": (
        {"instruction": "hi", "context": "you", "response": "hello", "category": "qa"},
        {"messages": [{"role": "user", "content": "hi\n\nyou"}, ANSWER], "meta": {"category": "qa"}},
    ),
    "answers in a prompt": (
        {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
    ),
    "a prompt of messages and a text": ({"prompt": [USER], "completion": "hello"}, normal()),
    "roles of ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "user", "value": "u"},
                {"from": "chatgpt", "value": "a"},
                {"from": "tool", "value": "t"},
                {"from": "bing", "value": "b", "weight": 0},
            ]
        },
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "t"},
                {"role": "assistant", "content": "b", "weight": 0},
            ]
        },
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_taken_as_its_dialect_means_it(tmp_path, name):
    row, expected = KEYS[name]
    (found,) = read_all(tmp_path, [row])
    assert found.error is None
    example = found.example()
    spans = [(s.message, s.start, s.end, s.weight) for s in example.spans]
    fields = {**vars(example), "spans": spans}
    plain = {**vars(Example([])), "spans": []}
    assert fields == {**plain, **expected}
    assert found.unknown_keys == (["mood"] if name == "another key of a message" else [])


REFUSED = {
    "chosen": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "a row of preferences (chosen, rejected)"),
    "chosen conversations": ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "a row of preferences"),
    "preferred_output": ({"input": {"messages": [USER]}, "preferred_output": [ANSWER]}, "(preferred_output)"),
    "ShareGPT's chosen": (
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}},
        "a row of preferences (chosen)",
    ),
    "label": ({"prompt": "a", "completion": "b", "label": True}, "a row of KTO (label)"),
    "kto_tag": (chat() | {"kto_tag": False}, "a row of KTO (kto_tag)"),
    "images": (chat() | {"images": ["a.png"]}, "the row has images, and only text"),
    "videos": ({"instruction": "a", "output": "b", "videos": ["a.mp4"]}, "the row has videos"),
    "audios": (chat() | {"audios": ["a.wav"]}, "the row has audios"),
    "an image part": (
        chat(role="user", content=[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]),
        "a part of the type 'image_url'",
    ),
    "images of a message": (chat(images=["a"]), "the assistant message has images"),
    "documents": (chat() | {"documents": [{"title": "a", "text": "b"}]}, "documents belong to the prompt"),
    "history beside messages": (chat() | {"history": [["a", "b"]]}, "history beside messages is not read"),
    "history of another form": ({"instruction": "a", "output": "b", "history": ["a"]}, "history must be a list of"),
    "two conversations": (
        chat() | {"instruction": "other", "output": "more"},
        "instruction says something else than messages",
    ),
    "two answers": ({"prompt": "a", "completion": "b", "response": "c"}, "response says something else than"),
    "an input beside a prompt": ({"prompt": "a", "completion": "b", "input": "c"}, "input says something else"),
    "a prompt beside messages": (chat() | {"prompt": "another one"}, "prompt says something else than messages"),
    "two pairs": (chat() | {"question": "q", "answer": "a"}, "question says something else than messages"),
    "two systems": (
        {"messages": [{"role": "system", "content": "Be."}, USER, ANSWER], "system": "Do."},
        "two different system",
    ),
    "train of a user": (chat(role="user", train=True), "the user message is to be learned (train)"),
    "flags against each other": (chat(train=True, weight=0), "weight and train of a message contradict"),
    "a flag that is no flag": (chat(train="no"), "train must be true or false, not 'no'"),
    "a weight that is none": (chat(weight=-1), "a message's weight -1 must be a number"),
    "nothing to learn": (chat(weight=0), "every answer has the weight 0"),
    "refusal": (chat(refusal="I will not."), "the assistant message has refusal"),
    "train_detail": (chat(train_detail=[{"begin_offset": 0}]), "the assistant message has train_detail"),
    "thoughts of a user": (chat(role="user", reasoning="x"), "the user message has reasoning"),
    "two thoughts": (chat(reasoning="x", thinking="y"), "reasoning and thinking of a message differ"),
    "a name": (chat(name=3), "the assistant message's name must be text"),
    "calls of a user": (chat(role="user", tool_calls=[call("a")]), "the user message has tool_calls"),
    "a call without a name": (chat(tool_calls=[{"function": {}}]), "a tool call is"),
    "arguments that are not JSON": (chat(tool_calls=[call("a", "room: a")]), "the arguments of a tool call is text"),
    "arguments of another kind": (chat(tool_calls=[call("a", [1])]), "the arguments of a tool call must be an object"),
    "two calls": (
        chat(tool_calls=[call("a")], function_call={"name": "f"}),
        "tool_calls and function_call of a message differ",
    ),
    "a ShareGPT call": (
        {"conversations": [{"from": "function_call", "value": "get light"}]},
        "the function_call message is text",
    ),
    "tools that are not JSON": (chat() | {"tools": "get_light"}, "tools is text that is not JSON"),
    "tools of another kind": (chat() | {"tools": [{"type": "web_search"}]}, "a tool is"),
    "two lists of tools": (
        chat() | {"tools": [TOOL], "functions": [TOOL | {"name": "b"}]},
        "tools and functions differ",
    ),
    "a reserved variable": (
        chat() | {"chat_template_kwargs": {"tokenize": True}},
        "chat_template_kwargs cannot set tokenize",
    ),
    "variables of another kind": (chat() | {"chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
    "a number that is not finite": (chat(tool_calls=[call("a", {"x": float("nan")})]), "a number that is not finite"),
    "a deep row": (chat() | {"meta": {"a": json.loads("[" * 200 + "]" * 200)}}, "nested deeper than 100"),
    "a surrogate in JSON text": (chat() | {"tools": '[{"name": "\\ud800"}]'}, "tools is text that is not JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_key_that_cannot_be_obeyed_is_refused_by_name(tmp_path, name):
    row, said = REFUSED[name]
    (found,) = read_all(tmp_path, [row])
    assert said in found.error
    assert "\n" not in found.error
    assert found.messages == []
    with pytest.raises(UserError) as error:
        read_trainable(tmp_path / "rows.jsonl")
    assert str(error.value) == f"{tmp_path}/rows.jsonl, line 1: {found.error}"


def test_empty_fields_of_arrow_structs_are_absent(tmp_path):
    """Arrow gives every struct the fields of all: two tools with different parameters."""
    other = {
        "name": "set",
        "description": "s",
        "parameters": {"type": "object", "properties": {"level": {"type": "number"}}},
    }
    tools = [[{"type": "function", "function": tool}] for tool in (TOOL, other)]
    rows = [
        chat(tool_calls=[call("a", a)]) | {"tools": t}
        for a, t in zip(({"room": "a"}, {"level": 3}), tools, strict=True)
    ]
    first, second = read_all(tmp_path, rows, "rows.parquet")
    assert [first.tools, second.tools] == tools
    assert [r.messages[1]["tool_calls"][0]["function"]["arguments"] for r in (first, second)] == [
        {"room": "a"},
        {"level": 3},
    ]


def test_rows_of_tables_are_named_and_the_rest_is_read(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfprompt,completion,weight\na,b,0.5\n\na,b\n"c\n",d,\na,\xff,1\na,,1\na,b,x\n')
    rows = list(read_rows(file))
    assert [row.where.rsplit(", ", 1)[1] for row in rows] == [f"row {i}" for i in range(1, 7)]
    assert (rows[0].messages[0]["content"], rows[0].weight) == ("a", 0.5)
    assert (rows[2].messages[0]["content"], rows[2].weight) == ("c\n", 1.0)
    assert "2 cells, and the header has 3" in rows[1].error
    assert "not UTF-8" in rows[3].error
    assert "completion is missing" in rows[4].error
    assert "the weight 'x'" in rows[5].error
    file.write_text('prompt,completion\na,b\n"a,b\nc,d\n')
    good, bad = read_rows(file)
    assert (good.error, bad.line) == (None, 2)
    assert "not CSV (unexpected end of data)" in bad.error
    file.write_text("a,a\n1,2\n")
    with pytest.raises(UserError, match="names the column 'a' twice"):
        list(read_rows(file))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.parquet", b"PAR1 and more", "cannot be read"),
        ("rows.parquet", b"{}", "is not a Parquet file"),
        ("rows.parquet", b"", "is not a Parquet file"),
        ("rows.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:-9], "gzip data is damaged"),
        ("rows.jsonl", b"\x28\xb5\x2f\xfd....", "compressed with zstd"),
        ("rows.zip", b"PK\x03\x04....", "compressed with zip"),
        ("rows.json", b"[\xff]", "byte 2 is not UTF-8"),
    ],
)
def test_a_file_that_is_damaged_is_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        list(read_rows(tmp_path / name))
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz"])
def test_a_gzip_bomb_is_one_sentence(tmp_path, monkeypatch, name):
    start = {"rows.jsonl.gz": b"", "rows.json.gz": b"[", "rows.csv.gz": b"text\n"}[name]
    (tmp_path / name).write_bytes(gzip.compress(start + b" " * 200_000_000))
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1 << 20)
    with (
        pytest.raises(UserError, match="expands to more than 500 times")
        if "csv" not in name
        else pytest.raises(UserError)
    ):
        for row in read_rows(tmp_path / name):
            if row.error:
                raise UserError(row.error)


def test_a_pipe_is_refused_in_every_format(tmp_path):
    for name in FILES:
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="this is not a file"):
            list(read_rows(tmp_path / name))


def test_the_plain_side_imports_no_library_of_models():
    libraries = ("mlx", "torch", "transformers", "datasets", "pyarrow")
    code = f"import sys, mlx_lora.data.dataset; print([name for name in {libraries} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The three cases of issue 11, with their own data.


def test_the_tools_of_a_row_are_rendered(tmp_path, tiny, with_tools):
    turns = [{"role": "user", "content": "How bright is the hall?"}]
    turns += [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **call("hall")}]}]
    turns += [{"role": "tool", "tool_call_id": "c1", "name": "get_light", "content": "40"}]
    turns += [{"role": "assistant", "content": "The hall is at 40."}]
    row = {"messages": turns, "tools": [{"type": "function", "function": TOOL}]}
    write_file(tmp_path / "train.jsonl", [row])
    (example,) = read_trainable(tmp_path)
    text = with_tools.decode(encode_example(with_tools, example, 4096).ids)
    system, _, _ = text.partition("<|im_end|>")
    assert "# Tools" in system
    assert '"name": "get_light", "description": "Read the lamp"' in system


def test_answers_of_weight_0_are_context(tmp_path, tiny):
    def row(bad, good):
        turns = ["say it", "BAD ANSWER HERE", "no, say it", "it is one"]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
        messages[1] |= bad
        messages[3] |= good
        return {"messages": messages}

    write_file(tmp_path / "train.jsonl", [row({"weight": 0}, {"weight": 1}), row({"train": False}, {"train": True})])
    for example in read_trainable(tmp_path):
        assert [m.get("weight", 1) for m in example.messages] == [1, 0, 1, 1]
        encoded = encode_example(tiny, example, 512)
        assert tiny.decode(encoded.ids[encoded.supervised]).strip() == "it is one<|eot_id|>"


def test_an_empty_answer_that_is_not_the_last_is_named(command, refused, tmp_path):
    turns = [USER, {"role": "assistant", "content": ""}, {"role": "user", "content": "well?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "good day to you."}]}]
    rows.append({"messages": [USER, {"role": "assistant", "content": "a fine day it is."}]})
    directory = tmp_path / "data"
    directory.mkdir()
    write_file(directory / "train.jsonl", rows)
    done = command("data", "check", directory, "--json", "--fix", tmp_path / "clean")
    assert done.returncode == 1
    said = f"{directory}/train.jsonl, line 1: the assistant's answer is empty; fill it in or remove the row"
    findings = {finding["check"]: finding["examples"] for finding in json.loads(done.stdout)["findings"]}
    assert findings["empty_answer"] == [said]
    assert len(read_split(tmp_path / "clean", "train")) == 1
    arguments = ("train", "--config", "quickstart", "--data", directory, "--out", tmp_path / "run")
    assert refused(*arguments) == f"mlx-lora: {said}"
    assert refused("data", "show", directory, 1) == f"mlx-lora: {said}"


def test_a_message_key_that_nobody_knows_is_a_warning(tmp_path):
    from mlx_lora.data.checks import check_table, read_table

    write_file(
        tmp_path / "train.jsonl", [chat(mood="good"), {**chat(content="well hello there", mood="bad")}, chat(name="A")]
    )
    found = {finding.check: finding.examples for finding in check_table(read_table([tmp_path]))}
    assert found["unknown_message_keys"] == [
        f"{tmp_path}/train.jsonl, line 1: messages have the key 'mood' (2 rows), which only the chat template may know"
    ]


def test_weights_reach_the_ids_unchanged(tiny):
    plain = encode_example(tiny, Example([USER, ANSWER]), 512)
    weighted = encode_example(tiny, Example([USER, {**ANSWER, "weight": 0.5}]), 512)
    assert np.array_equal(plain.ids, weighted.ids)
