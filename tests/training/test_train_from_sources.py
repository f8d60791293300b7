"""Each source trains on the built-in base, and the run says what its weights touched."""

from __future__ import annotations

import json

import pytest

SETTINGS = ("--config", "quickstart", "--set", "max_steps=12", "--set", "batch_size=4", "--set", "log_steps=1")
SENTENCE = "together we found the small boat specifically and i notice that i feel curious about it our way"
WORDS = SENTENCE.split()


def experience(i):
    words = [WORDS[(i * k + k) % len(WORDS)] for k in range(1, 12)]
    parts = [0.5 + 0.05 * (i % 9)] * 5
    names = ("surprise", "novelty", "arousal", "reward", "conflict")
    return {
        "id": f"{i:016x}",
        "prompt": f"What did you see at {i}?",
        "response": f"Number {i}: " + " ".join(words) + ".",
        "salience": {**dict(zip(names, parts, strict=True)), "total": parts[0]},
        "session": i,
        "phase": "relating",
        "timestamp": f"2026-01-01T00:{i:02d}:00",
        "metadata": {},
    }


@pytest.fixture
def salience(command, tmp_path):
    (tmp_path / "buffer.json").write_text(json.dumps([experience(i) for i in range(40)]))
    done = command("data", "salience", "--buffer", tmp_path / "buffer.json", "--out", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    return tmp_path / "data"


@pytest.fixture
def traces(command, tmp_path):
    for i in range(12):
        context = {"constraints": "", "feedback_history": [], "dependency_artifacts": {}}
        base = {
            "workflow_id": f"w{i}",
            "action_pair_id": "ap",
            "created_at": f"2026-01-01T00:{i:02d}:00",
            "context": {"specification": f"Add {i} to a number", **context},
        }
        refused = {"passed": False, "feedback": f"f(1) is {1 - i}", "fatal": False}
        rows = [
            {"artifact_id": f"r{i}", "status": "rejected", "attempt_number": 1, "guard_result": refused}
            | {"content": f"f = lambda x: x - {i}", "previous_attempt_id": None},
            {"artifact_id": f"a{i}", "status": "accepted", "attempt_number": 2, "guard_result": None}
            | {"content": f"f = lambda x: x + {i}", "previous_attempt_id": f"r{i}"},
        ]
        for row in rows:
            place = tmp_path / "store" / "objects" / row["artifact_id"][:2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row['artifact_id']}.json").write_text(json.dumps(base | row))
    done = command("data", "traces", "--store", tmp_path / "store", "--out", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["salience", "traces"])
def test_the_loss_falls(request, command, source, tmp_path):
    data = request.getfixturevalue(source)
    done = command("train", *SETTINGS, "--data", data, "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["unweighted_loss"] for row in rows if row["event"] == "progress"]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    start = rows[0]
    assert (start["weighted_tokens"] > 0) is (source == "salience")
    assert start["span_tokens"] == 0
