"""The demonstration of the night, as README has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from json_keys import key_paths

PINNED = json.loads((Path(__file__).parent.parent / "compat" / "json_keys.json").read_text())["sleep demo"]


@pytest.mark.slow
def test_the_demonstration_goes_as_it_says(command, tmp_path):
    done = command("sleep", "demo", "--out", "demo", "--json", cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert set(PINNED) - key_paths(found) == set()
    assert [night["decision"] for night in found["nights"]] == ["promoted", "promoted", "failed"]
    index = (tmp_path / found["index"]).read_text()
    assert "Night 3" in index
    status = json.loads(command("sleep", "status", "demo/adapter", "--json", cwd=tmp_path).stdout)
    assert (status["live"], status["previous"], status["trial"]) == (2, 1, None)
    # Nothing was forgotten: every earlier night's held-out rows are right after the second night.
    record = json.loads((tmp_path / "demo/adapter/cycles/0002/cycle.json").read_text())
    judged = next(step["result"] for step in record["steps"] if step["step"] == "judge")
    assert all(score > 0.93 for score in judged["candidates"][0]["scores"].values())
    # Again in its place; elsewhere it is refused.
    (tmp_path / "mine").mkdir()
    assert command("sleep", "demo", "--out", "mine", cwd=tmp_path).returncode == 2
