import errno
import json
import os

import pytest

from mlx_lora.data.dataset import Example, Span, parse_example, read_examples, read_split, write_dataset
from mlx_lora.data.import_report import ImportReport
from mlx_lora.data.split import split_by_key
from mlx_lora.errors import UserError
from mlx_lora.files import new_directory, write_atomic

ROW = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def lines(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_a_dataset_and_its_card(tmp_path):
    splits = {"train": [Example(ROW["messages"], 2.0, {"a": 1})] * 2, "test": [Example(ROW["messages"])]}
    card = write_dataset(tmp_path / "d", splits, {"source": "hand", "seed": 3})
    assert card == json.loads((tmp_path / "d" / "card.json").read_text())
    assert card["splits"] == {"train": 2, "valid": 0, "test": 1}
    assert set(card["sha256"]) == {"train", "valid", "test"}
    assert read_split(tmp_path / "d", "train") == splits["train"]
    assert read_split(tmp_path / "d", "valid") == []


def test_mlx_lm_reads_the_format(tmp_path):
    from types import SimpleNamespace

    from mlx_lm.tuner.datasets import ChatDataset, load_local_dataset

    write_dataset(tmp_path / "d", {s: [Example(ROW["messages"])] for s in ("train", "valid", "test")}, {})
    train, *_ = load_local_dataset(tmp_path / "d", None, SimpleNamespace(mask_prompt=True))
    assert isinstance(train, ChatDataset)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "line 2: this is not JSON"),
        ({"a": "b"}, "line 2: a row has messages"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "role 'robot' is unknown"),
        ({"messages": ["hi"]}, "role None is unknown"),
        ({"messages": [{"role": "user"}]}, "user message has no text"),
        ({"messages": [ROW["messages"][0], {"role": "assistant", "content": "  "}]}, "answer is empty"),
        ({"messages": [ROW["messages"][0]]}, "no assistant message"),
        ({**ROW, "weight": -1}, "weight -1"),
        ({**ROW, "weight": "a"}, "weight 'a'"),
        ({**ROW, "meta": 3}, "meta must be an object"),
    ],
)
def test_bad_lines_are_one_sentence_with_file_and_line(tmp_path, row, said):
    file = lines(tmp_path / "train.jsonl", ROW, row)
    with pytest.raises(UserError) as error:
        read_examples(file)
    assert said in str(error.value)
    assert f"{file}, line 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_weight_of_nan_is_refused():
    with pytest.raises(UserError, match="weight nan"):
        parse_example("here", {**ROW, "weight": float("nan")})


def test_missing_and_empty_splits(tmp_path):
    with pytest.raises(UserError, match="no such dataset directory"):
        read_split(tmp_path / "no", "train")
    with pytest.raises(UserError, match="no data file"):
        read_split(tmp_path, "train")
    lines(tmp_path / "train.jsonl")
    with pytest.raises(UserError, match="file is empty"):
        read_split(tmp_path, "train")
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_split(tmp_path, "train")


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    def fail_half_way():
        with new_directory(tmp_path / "d") as directory:
            (directory / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="exists already"), new_directory(tmp_path / "d"):
        pass


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomic(tmp_path / "f", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        write_atomic(tmp_path / "f", "new")
    monkeypatch.undo()
    assert (tmp_path / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_spans_are_written_where_there_are_some_and_read_back(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b 12345"}]
    rows = [Example(messages, spans=[Span(1, 2, 7, 5.0)]), Example(messages)]
    write_dataset(tmp_path / "d", {"train": rows}, {})
    assert read_split(tmp_path / "d", "train") == rows
    assert "spans" not in (tmp_path / "d" / "train.jsonl").read_text().splitlines()[1]


@pytest.mark.parametrize(
    "span", [{"message": 0}, {"end": 99}, {"start": 7}, {"weight": 0}, {"message": 5}, {"message": -1}, {"more": 1}]
)
def test_a_span_outside_an_answer_is_refused(span):
    messages = [{"role": "user", "content": "a 12345"}, {"role": "assistant", "content": "b 12345"}]
    row = {"messages": messages, "spans": [{"message": 1, "start": 2, "end": 7, "weight": 5.0} | span]}
    with pytest.raises(UserError, match=r"^d, line 3: a span is"):
        parse_example("d, line 3", row)


def test_examples_of_one_key_stay_together_and_never_change_sides():
    def rows(count):
        return [Example([{"role": "user", "content": str(i % 100)}]) for i in range(count)]

    def key(example):
        return example.messages[0]["content"]

    few, many = split_by_key(rows(50), key), split_by_key(rows(1000), key)
    for split in few:
        assert {key(e) for e in few[split]} <= {key(e) for e in many[split]}
    assert sum(map(len, many.values())) == 1000
    assert 30 <= len(many["valid"]) <= 200
    assert not {key(e) for e in many["train"]} & {key(e) for e in many["test"]}


def test_a_report_counts_and_names_what_was_left_out(tmp_path):
    report = ImportReport("salience", read=30, kept=4)
    for i in range(26):
        report.leave_out("too short", f"row {i}")
    write_dataset(tmp_path / "d", {}, {}, report)
    written = json.loads((tmp_path / "d" / "report.json").read_text())
    assert written["left_out"][0]["count"] == 26
    assert len(written["left_out"][0]["examples"]) == 20
    assert "too short (26)" in (tmp_path / "d" / "report.md").read_text()
    assert "and 6 more" in (tmp_path / "d" / "report.md").read_text()
