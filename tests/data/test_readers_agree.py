"""Checks, ``--fix``, ``data show`` and training agree on every row: usable for all, or refused with one sentence."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
from test_formats import KEYS, REFUSED, dialects, tool_dialects, write_file

from mlx_lora.data.checks import check_table, read_table
from mlx_lora.data.checks.cleaning import LOG, write_fixed
from mlx_lora.data.dataset import read_examples, read_split, read_trainable
from mlx_lora.data.example_view import find_row
from mlx_lora.data.import_report import ImportReport
from mlx_lora.data.tokenize import encode_example
from mlx_lora.errors import UserError
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.sources.instructions import read_rows as read_instructions

JUNK = [
    *(
        None,
        "",
        " ",
        "hi",
        "[1]",
        0,
        1,
        -1,
        0.5,
        True,
        False,
        [],
        {},
        ["a"],
        [["a", "b"]],
        {"a": 1},
        float("nan"),
        10**400,
    ),
    *(
        [{"role": "assistant", "content": "x"}],
        [{"from": "gpt", "value": "x"}],
        {"name": "f"},
        [{"name": "f"}],
        "\ud800",
    ),
]
ROW_KEYS = [
    *(
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        "prompt",
        "completion",
        "text",
        "query",
        "response",
    ),
    *("question", "answer", "system", "history", "tools", "functions", "chat_template_kwargs", "documents", "images"),
    *("weight", "spans", "meta", "metadata", "chosen", "label", "kto_tag", "context", "task_type", "never_mind"),
]
MESSAGE_KEYS = [
    *("role", "from", "content", "value", "weight", "train", "training", "loss", "name", "tool_calls", "function_call"),
    *("tool_call_id", "reasoning", "thinking", "reasoning_content", "refusal", "images", "mood", "open_end"),
]


def mutated(draw: random.Random, row: dict) -> bytes:
    """Return a line made of a valid row by up to three changes."""
    row = copy.deepcopy(row)
    for _ in range(draw.randint(0, 3)):
        messages = row.get("messages") or row.get("conversations")
        message = draw.choice(messages) if isinstance(messages, list) and messages else None
        target, keys = row, ROW_KEYS
        if isinstance(message, dict) and draw.random() < 0.6:
            target, keys = message, MESSAGE_KEYS
        if draw.random() < 0.2 and target:
            del target[draw.choice(list(target))]
        elif draw.random() < 0.3 and isinstance(messages, list):
            draw.shuffle(messages) if draw.random() < 0.5 else messages.append(draw.choice(JUNK))
        else:
            target[draw.choice(keys)] = draw.choice(JUNK)
    line = json.dumps(row).encode()
    if draw.random() < 0.05:
        line = line[: draw.randrange(1, len(line))]
    if draw.random() < 0.03:
        line = line.replace(b"a", b"\xff", 1)
    return line


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    """A dataset of 600 rows, some of which can be used."""
    draw = random.Random(11)
    valid = [row for some in (dialects(), tool_dialects()) for rows in some.values() for row in rows[:20]]
    valid += [row for row, _ in KEYS.values()]
    lines = [mutated(draw, draw.choice(valid)) for _ in range(550)]
    lines += [json.dumps(row).encode() for row, _ in REFUSED.values()]
    directory = tmp_path_factory.mktemp("fuzzed") / "data"
    directory.mkdir()
    # A first line that begins as a JSON array would make the file one.
    (directory / "train.jsonl").write_bytes(b"\n".join([b'{"prompt": "a", "completion": "A fine answer."}', *lines]))
    return directory


def refused_by(read) -> str | None:
    """Return the sentence that ``read`` is refused with, or ``None``."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None


def test_every_row_is_usable_for_all_or_refused_by_all(fuzzed, tmp_path):
    file = fuzzed / "train.jsonl"
    lines = file.read_bytes().split(b"\n")
    table = read_table([fuzzed])
    findings = check_table(table)
    named = {
        hit.said.split(": ", 1)[0]: hit.said
        for f in findings
        if f.check in ("malformed", "empty_answer")
        for hit in f.hits
    }
    assert table.rows == len(lines)
    assert 150 < len(named) < 500
    alone = tmp_path / "alone.jsonl"
    report = ImportReport("instructions")
    usable = {row.where for row in read_instructions(file, report)}
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        alone.write_bytes(b"\n" * (number - 1) + line)
        by_train = refused_by(lambda: read_examples(alone))
        assert (by_train and by_train.replace(str(alone), str(file))) == named.get(where)
        assert "\n" not in (by_train or "")
        assert refused_by(lambda: find_row(alone, 1, None)) == by_train
        if number % 50 == 0:
            assert refused_by(lambda n=number: find_row(fuzzed, n, None)) == named.get(where)
        assert not (where in usable and where in named)
    assert refused_by(lambda: read_trainable(fuzzed)) == next(iter(sorted(named.values(), key=line_of)))
    write_fixed(tmp_path / "clean", table, findings)
    left_out = [json.loads(line) for line in (tmp_path / "clean" / LOG).read_text().splitlines()]
    assert {f"{row['file']}, line {row['line']}" for row in left_out} >= set(named)
    kept = read_split(tmp_path / "clean", "train")
    assert len(kept) == len(lines) - len(left_out) > 50


def line_of(sentence: str) -> int:
    return int(sentence.split(", line ", 1)[1].split(":", 1)[0])


def test_what_training_cannot_encode_is_named_with_a_base(fuzzed):
    table = read_table([fuzzed])
    table.tokenizer, table.max_seq_length = load_tokenizer("builtin/tiny-lumen"), 512
    named = {
        hit.said.split(": ", 1)[0]
        for finding in check_table(table)
        if finding.severity == "error" and finding.check not in ("mostly_copies", "secrets")
        for hit in finding.hits
    }
    for item in table.items:
        if item.row.refusal is None and refused_by(
            lambda i=item: encode_example(table.tokenizer, i.row.example(), 512)
        ):
            assert item.where in named


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.csv.gz", "train.parquet", "train.json", "train.jsonl"])
def test_the_commands_agree(command, refused, tmp_path, name):
    """``data check``, ``--fix``, ``data show`` and ``train`` as a user meets them, on a bad row of every format."""
    rows = [{"prompt": f"Name light {i}.", "completion": f"It is light number {i}, then."} for i in range(3)]
    directory = tmp_path / "data"
    directory.mkdir()
    write_file(directory / name, [rows[0], {**rows[1], "response": "Something else."}, rows[2]])
    unit = "line" if name.endswith(".jsonl") else "row"
    said = f"{directory / name}, {unit} 2: response says something else than completion and prompt"
    done = command("data", "check", directory, "--json", "--fix", tmp_path / "clean")
    assert done.returncode == 1, done.stderr
    (finding,) = [f for f in json.loads(done.stdout)["findings"] if f["severity"] == "error"]
    assert (finding["check"], finding["examples"][0].startswith(said)) == ("malformed", True)
    assert f"mlx-lora: {finding['examples'][0]}" == refused("data", "show", directory, 2)
    arguments = ("--config", "quickstart", "--out", tmp_path / "run", "--set", "max_steps=1")
    assert f"mlx-lora: {finding['examples'][0]}" == refused("train", "--data", directory, *arguments)
    shown = json.loads(command("data", "show", directory, 3, "--json").stdout)
    assert (shown["file"], shown["line"]) == (str(directory / name), 3)
    assert len(read_split(tmp_path / "clean", "train")) == 2
    assert command("data", "check", tmp_path / "clean").returncode == 0


@pytest.mark.slow
def test_training_on_another_format_is_the_same_run(command, tmp_path):
    """A run on Parquet has the losses of a run on JSONL, and resuming notices that the file has changed."""
    losses = []
    for name in ("train.jsonl", "train.parquet"):
        directory, out = tmp_path / name.replace(".", "-"), tmp_path / f"run-{name}"
        directory.mkdir()
        write_file(directory / name, dialects()["alpaca"])
        arguments = ["train", "--data", directory, "--out", out, "--set", "model_name=builtin/tiny-lumen"]
        for setting in (
            "max_steps=2",
            "lora_rank=4",
            "batch_size=4",
            "gradient_accumulation_steps=1",
            "warmup_steps=0",
        ):
            arguments += ["--set", setting]
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([event["loss"] for event in events if event.get("event") == "progress"])
    assert losses[0] == losses[1] != []
    write_file(directory / name, dialects()["alpaca"][1:])
    assert f"{directory}/train.parquet has changed" in command(*arguments).stderr
