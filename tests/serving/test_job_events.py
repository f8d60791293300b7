"""Lines of a run's metrics as events of a job."""

from __future__ import annotations

import json
import os

from mlx_lora.runs.events import Checkpoint, Evaluation, Progress, Start, TrainingWarning, append_event
from mlx_lora.serving.jobs.events import Tail, finding_event, metrics_event


def progress(step, loss=2.0, **changes):
    measured = dict.fromkeys(("unweighted_loss", "grad_norm", "tokens_per_second", "supervised_tokens_per_second"), 1.0)
    return Progress(step=step, epoch=1, learning_rate=1e-3, loss=loss, peak_memory_gb=0.1, **{**measured, **changes})


def start(step=0):
    return Start(step=step, model="m", trainable_parameters=1, train_examples=4, valid_examples=0, total_steps=9)


def test_a_tail_reads_whole_lines_once_and_again_where_the_file_was_cut_back(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert list(tail.read()) == []
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert list(tail.read()) == [{"a": 1}, {"a": 2}]
    with open(file, "a") as opened:
        opened.write('3}\nnot json\n[1]\n{"a": 4}\n')
    assert list(tail.read()) == [{"a": 3}, {"a": 4}]
    assert list(tail.read()) == []
    os.truncate(file, 9)
    assert list(tail.read()) == [{"a": 1}]
    # A resumed run replaces the file by its beginning.
    other = tmp_path / "other"
    other.write_text('{"a": 1}\n{"a": 5}\n')
    os.replace(other, file)
    assert list(tail.read()) == [{"a": 1}, {"a": 5}]


def test_lines_become_events_with_keys_of_kind_and_step(tmp_path):
    file, seen = tmp_path / "metrics.jsonl", {}
    happened = [start(), progress(1, 2.25), Evaluation(step=1, epoch=1, validation_loss=2.5)]
    happened += [Checkpoint(step=1), TrainingWarning(step=1, message="the loss rises"), start(1), progress(2)]
    for event in happened:
        append_event(file, event)
    events = [metrics_event(line, seen) for line in Tail(file).read()]
    assert [event.message for event in events[1:5]] == [
        "Step 1/9: training loss=2.25",
        "Step 1/9: full validation loss=2.50",
        "Checkpoint of step 1",
        "the loss rises",
    ]
    assert events[0].message.startswith("Training starts: 9 steps")
    assert events[5].message.startswith("Training continues after step 1: ")
    assert len({event.key for event in events}) == 7
    assert events[1].key == "progress:1"
    assert (events[1].data["train_loss"], events[1].data["total_steps"], events[4].level) == (2.25, 9, "warn")
    assert events[2].data == {"step": 1, "epoch": 1, "total_steps": 9, "valid_loss": 2.5, "full_valid_loss": 2.5}
    assert seen == {"total_steps": 9, "step": 2, "epoch": 1, "loss": 2.0, "valid_loss": 2.5}
    again = [metrics_event(line, seen) for line in Tail(file).read()]
    assert [event.key for event in again] == [event.key for event in events]
    assert seen["step"] == 2


def test_steps_that_are_repeated_after_a_kill_are_no_further_ones(tmp_path):
    file, seen = tmp_path / "metrics.jsonl", {"step": 5, "loss": 1.0, "total_steps": 9}
    append_event(file, progress(3))
    [line] = Tail(file).read()
    assert metrics_event(line, seen).key == "progress:3"
    assert (seen["step"], seen["loss"]) == (5, 1.0)


def test_numbers_that_json_has_not_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append_event(file, progress(1, grad_norm=float("inf")))
    [line] = Tail(file).read()
    data = metrics_event(line, {}).data
    assert "grad_norm" not in data
    json.dumps(data, allow_nan=False)


def test_other_lines_give_no_event():
    known = {"event": "progress", "time": 1.0}
    for line in ({}, {"event": "later"}, {"event": ["progress"], "time": 1.0}, known, {**known, "step": "1"}):
        assert metrics_event(line, {}) is None
    for line in ({}, {"level": "loud", "message": "a", "key": "b"}, {"level": "info", "message": 1, "key": "b"}):
        assert finding_event(line) is None
    assert finding_event({"level": "warn", "message": "a", "key": "b"}).level == "warn"
