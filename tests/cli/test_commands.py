"""The command as a user meets it: help, JSON, and one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from mlx_lora.models.resolve import BUILT_IN

TINY = BUILT_IN["builtin/tiny-lumen"]


def test_help_teaches_and_lists_every_command(command):
    done = command("--help")
    assert done.returncode == 0
    assert "mlx-lora quickstart" in done.stdout
    for name in ("data", "train", "eval", "gate", "baseline", "generate"):
        assert re.search(rf"^  {name} ", done.stdout, re.M)
        assert command(name, "--help").returncode == 0


def test_importing_the_package_or_asking_for_help_loads_nothing_heavy():
    code = (
        "import sys, mlx_lora, mlx_lora.cli.main\n"
        "print([m for m in ('numpy', 'yaml', 'rich', 'mlx', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_data_json(command, tmp_path):
    done = command("data", "eisv", "--out", tmp_path / "d", "--min-per-shape", 4, "--seed", 7, "--json")
    card = json.loads(done.stdout)
    assert card["path"] == str(tmp_path / "d")
    assert card["counts"]["total"] == 36
    assert card["counts"]["per_shape"]["convergence"] == 4
    assert sum(card["splits"].values()) == 36
    assert (card["seed"], card["labels"]) == (7, "feedback")
    again = command("data", "eisv", "--out", tmp_path / "e", "--min-per-shape", 4, "--seed", 7, "--json")
    assert json.loads(again.stdout)["sha256"] == card["sha256"]
    published = command(
        *("data", "eisv", "--out", tmp_path / "f", "--min-per-shape", 4, "--seed", 7, "--labels", "generator", "--json")
    )
    assert json.loads(published.stdout)["sha256"] != card["sha256"]


def test_data_from_a_database(command, tmp_path, anima):
    db = anima([(str(2 * i), 0.5 + 0.001 * i, 0.8, 0.9, 0.7) for i in range(60)])
    before = db.read_bytes()
    done = command("data", "eisv", "--out", tmp_path / "d", "--anima-db", db, "--stride", 10, "--json")
    card = json.loads(done.stdout)
    assert (card["counts"]["real"], card["anima_db"]["states"]) == (6, 60)
    assert db.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anima.db", "d"]


def test_databases_that_cannot_be_used(refused, tmp_path, anima):
    out = tmp_path / "d"

    def said(db):
        sentence = refused("data", "eisv", "--out", out, "--anima-db", db)
        assert str(db) in sentence
        assert not out.exists()
        return sentence

    no_sqlite = tmp_path / "notes.txt"
    no_sqlite.write_text("these are notes, not a database" * 100)
    assert "not an intact SQLite database" in said(no_sqlite)
    assert "no such database file" in said(tmp_path / "absent.db")
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE t (a)")
    assert "no table state_history" in said(other)
    assert "no usable state" in said(anima([], name="empty.db"))
    assert "3 states, too few for one window of 10" in said(
        anima([(str(i), 0.5, 0.5, 0.5, 0.5) for i in range(3)], name="few.db")
    )
    assert "row 1 of state_history has no finite number for clarity" in said(
        anima([("1", 0.5, float("nan"), 0.5, 0.5)], name="nan.db")
    )
    assert "carry the same time" in said(anima([("1", 0.5, 0.5, 0.5, 0.5)] * 20, name="equal.db"))
    truncated = tmp_path / "truncated.db"
    truncated.write_bytes(anima([("1", 0.5, 0.5, 0.5, 0.5)], name="whole.db").read_bytes()[:3000])
    assert "SQLite" in said(truncated)


@pytest.mark.slow
def test_a_locked_database(refused, tmp_path, anima):
    db = anima([("1", 0.5, 0.5, 0.5, 0.5)])
    owner = sqlite3.connect(db)
    owner.execute("BEGIN EXCLUSIVE")
    assert "another program has locked it" in refused("data", "eisv", "--out", tmp_path / "d", "--anima-db", db)
    assert not (tmp_path / "d").exists()


def test_an_output_that_exists(refused, tmp_path, eisv_data):
    (tmp_path / "d").mkdir()
    assert "exists already" in refused("data", "eisv", "--out", tmp_path / "d")
    assert "is not a run directory" in refused("train", "--data", eisv_data, "--out", tmp_path / "d")
    assert "not an earlier quickstart" in refused("quickstart", "--out", tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []


def limit_file_size():
    # The nearest thing to a full disk that needs no root: writing past 4 kB fails with an OSError.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_no_room_to_write(command, tmp_path):
    done = command("data", "eisv", "--out", tmp_path / "d", preexec_fn=limit_file_size)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's own full disk")
def test_a_full_disk_is_named(tmp_path):
    from mlx_lora.errors import UserError
    from mlx_lora.runs.events import Checkpoint, append_event

    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk is full"):
        append_event(tmp_path / "metrics.jsonl", Checkpoint(step=1))


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    arguments = ["data", "eisv", "--out", str(tmp_path / "d"), "--min-per-shape", "20000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_lora", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs inherit that they ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    assert list(tmp_path.iterdir()) == []


BAD_LINES = {
    "not json": ("{oops", "line 1: this is not JSON"),
    "unknown role": ('{"messages": [{"role": "robot", "content": "a"}]}', "line 1: the role 'robot' is unknown"),
    "empty answer": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
        "line 1: the assistant's answer is empty",
    ),
    "long answer": (
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 900}]}),
        "example 1: the answer takes",
    ),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_training_data(refused, tmp_path, kind):
    line, said = BAD_LINES[kind]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text(line + "\n")
    sentence = refused("train", "--config", "quickstart", "--data", tmp_path / "d", "--out", tmp_path / "run")
    assert f"{tmp_path / 'd' / 'train.jsonl'}, {said}" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bad_models(refused, tmp_path, eisv_data):
    def said(path):
        arguments = ("--data", eisv_data, "--out", tmp_path / "run", "--set", f"model_name={path}")
        sentence = refused("train", *arguments)
        assert not (tmp_path / "run").exists()
        return sentence

    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:100_000])
    assert "truncated or broken" in said(model)
    (model / "model.safetensors").unlink()
    assert "there are no weights" in said(model)
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pickled" in said(model)
    (model / "model.safetensors").write_bytes(weights)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert "mlx-lm cannot load this model" in said(model)
    (model / "config.json").write_text(json.dumps({**config, "model_type": "quux"}))
    assert "mlx-lm cannot load this model" in said(model)


def test_bad_arguments(refused, tmp_path, eisv_data):
    assert "no dataset was given" in refused("train", "--out", tmp_path / "r")
    assert "no run directory was given" in refused("train", "--data", eisv_data)
    assert "nearest is 'lora_rank'" in refused(
        *("train", "--data", eisv_data, "--out", tmp_path / "r", "--set", "lora_rnk=3")
    )
    assert "no wq; it has" in refused(
        *("train", "--config", "quickstart", "--data", eisv_data, "--out", tmp_path / "r"),
        *("--set", "lora_target_modules=[wq]"),
    )
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{}")
    cases = ("--suite", "eisv_gate1", "--cases", eisv_data / "test.jsonl")
    assert "train it to the end first" in refused("eval", *cases, "--target", tmp_path / "half")
    (tmp_path / "half" / "adapters.safetensors").write_bytes(b"")
    assert "missing or broken" in refused("eval", *cases, "--target", tmp_path / "half")
    assert "this report cannot be read" in refused("gate", tmp_path / "absent.json")


def test_usage_errors_have_status_2(command):
    for arguments in (["eval"], ["nonsense"], ["data", "eisv"], ["eval", "--temperature", "nan"]):
        done = command(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
