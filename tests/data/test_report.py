"""The account of an import: every row by name in report.json, the first ones for a person."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from mlx_lora.data import import_report as module
from mlx_lora.data.dataset import Example, write_dataset
from mlx_lora.data.import_report import NAMED, ImportReport

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def filled(count):
    report = ImportReport("rows", read=count + 2, kept=2)
    for number in range(count):
        report.leave_out("too short", f"f.jsonl, line {number}")
    report.change("trimmed", "f.jsonl, line 9999")
    report.notes.append("One note.")
    return report


def test_the_file_names_every_row_and_a_person_sees_the_first(tmp_path):
    report = filled(183)
    write_dataset(tmp_path / "d", {"train": [Example(MESSAGES)], "valid": [Example(MESSAGES)]}, {}, report)
    written = json.loads((tmp_path / "d" / "report.json").read_text())
    names = [f"f.jsonl, line {number}" for number in range(183)]
    assert written["left_out"] == [{"reason": "too short", "count": 183, "examples": names[:NAMED], "rows": names}]
    changed = ["f.jsonl, line 9999"]
    assert written["changed"] == [{"reason": "trimmed", "count": 1, "examples": changed, "rows": changed}]
    assert (written["source"], written["read"], written["kept"], written["notes"]) == ("rows", 185, 2, ["One note."])
    page = (tmp_path / "d" / "report.md").read_text()
    assert page.count("f.jsonl, line ") == NAMED + 1
    assert "## Left out: too short (183)" in page
    assert "- … and 163 more, all of them in report.json" in page


def test_stdout_gets_the_first_names():
    printed = filled(50).to_dict()
    assert [set(item) for item in printed["left_out"]] == [{"reason", "count", "examples"}]
    assert len(printed["left_out"][0]["examples"]) == NAMED
    assert "changed" not in ImportReport("rows").to_dict()


def test_what_a_large_import_takes(monkeypatch):
    """100,000 names fit into some 20 MB, and beyond a bound rows are only counted."""
    tracemalloc.start()
    report = filled(100_000)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 20e6
    assert len(report.to_dict(every=True)["left_out"][0]["rows"]) == 100_000
    monkeypatch.setattr(module, "KEPT", 30)
    report = filled(50)
    (item,) = report.to_dict(every=True)["left_out"]
    assert (item["count"], len(item["rows"])) == (50, 30)
    assert "… and 30 more, the first 30 of all in report.json" in report.to_markdown()


@pytest.mark.parametrize(("count", "more"), [(NAMED, False), (NAMED + 1, True)])
def test_one_more_than_is_shown(count, more):
    assert ("… and 1 more, all of them in report.json" in filled(count).to_markdown()) is more
