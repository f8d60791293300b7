"""Events of metrics.jsonl: the documented table, and what the reader makes of each line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.runs.events import (
    EVENTS,
    Checkpoint,
    Evaluation,
    TrainingResult,
    TrainingWarning,
    append_event,
    read_events,
    schema,
)

TYPES = {int: "integer", float: "number", str: "text", dict: "object", type(None): "null"}


def in_words(types: tuple[type, ...]) -> str:
    return " or ".join(TYPES[kind] for kind in types if not (kind is int and float in types))


def test_the_table_of_the_docs_is_the_schema():
    text = (
        (Path(__file__).parents[2] / "docs/config.md")
        .read_text(encoding="utf-8")
        .split("## Metrics")[1]
        .split("\n## ")[0]
    )
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    documented = [(event, key, kind) for event, keys, kind, _ in rows for key in re.findall(r"`(\w+)`", keys)]
    expected = [(name, key, in_words(types)) for name, kind in EVENTS.items() for key, types in schema(kind).items()]
    assert sorted(documented) == sorted(expected)


def test_what_is_written_is_read(tmp_path):
    result = TrainingResult(
        steps=2, loss=1.5, validation_loss=None, best_step=2, tokens=9, seconds=0.5, stopped="time budget"
    )
    events = [TrainingWarning(step=0, message="é"), Evaluation(step=2, epoch=1, validation_loss=1.5), result]
    for event in events:
        append_event(tmp_path / "metrics.jsonl", event)
    assert read_events(tmp_path / "metrics.jsonl") == events
    first = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["event", "step", "message", "time"]
    assert first["event"] == "warning"
    with pytest.raises(UserError):
        append_event(tmp_path / "absent" / "metrics.jsonl", result)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "checkpoint", "st',
        '{"event": "checkpoint"}',
        '{"event": "checkpoint", "step": "2"}',
        '{"event": "checkpoint", "step": true}',
        '{"event": "of a later version", "step": 2}',
        '{"event": ["checkpoint"], "step": 2}',
        '["checkpoint"]',
        "7",
        "",
    ],
)
def test_lines_that_are_left_out(tmp_path, line):
    later = '{"event": "checkpoint", "step": 3, "of_a_later_version": 1}'
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{later}\n", encoding="utf-8")
    assert read_events(tmp_path / "metrics.jsonl") == [Checkpoint(step=3)]


def test_numbers_without_a_fraction(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "evaluation", "step": 1, "epoch": 1, "validation_loss": 2}\n')
    assert read_events(tmp_path / "metrics.jsonl") == [Evaluation(step=1, epoch=1, validation_loss=2)]
