"""``mlx-lora data traces`` as a user meets it."""

import json
import subprocess
import sys

import pytest
from trace_stores import artifact, refined, write_store

from mlx_lora.data.dataset import read_split
from mlx_lora.errors import UserError
from mlx_lora.sources.traces import make_traces_dataset


def test_a_dataset_with_its_report(command, tmp_path):
    one = refined(tmp_path / "one")
    two = write_store(tmp_path / "two", [artifact("b1", history=["x"], created_at="2026-02-03T06:00:00")])
    (two / "objects" / "bad.json").write_text("{")
    out = tmp_path / "data"
    done = command("data", "traces", "--store", one, two, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    report = card["report"]
    assert (report["read"], report["kept"]) == (7, 3)
    assert {row["reason"]: row["count"] for row in report["left_out"]} == {
        "its status is rejected": 1,
        "its status is pending": 1,
        "accepted, but not chosen by refinement": 1,
        "not JSON, or cut off in the middle": 1,
    }
    assert report["read"] == report["kept"] + sum(row["count"] for row in report["left_out"])
    written = json.loads((out / "report.json").read_text())
    assert all(len(row.pop("rows")) == row["count"] for row in written["left_out"])
    assert written == report
    assert "bad.json" in (out / "report.md").read_text()
    examples = [e for split in ("train", "valid", "test") for e in read_split(out, split)]
    assert card["policy"] == "refinement"
    by_id = {e.meta["item_id"]: e for e in examples}
    assert list(by_id["b1"].meta) == [
        *("source", "action_pair_id", "workflow_id", "retry_count", "item_id", "created_at", "store", "task")
    ]
    assert by_id["b1"].meta["created_at"] == "2026-02-03T06:00:00"
    assert by_id["b1"].meta["store"] == str(two)
    assert [m["role"] for m in by_id["b1"].messages] == ["user", "assistant"]


def test_people_see_what_was_left_out(command, tmp_path):
    store = write_store(tmp_path / "s", [artifact("a1", history=["x"], previous="nowhere")], index=False)
    done = command("data", "traces", "--store", store, "--out", tmp_path / "d")
    assert "1 examples of 1 " in done.stdout
    assert "leads nowhere (1: a1)" in " ".join(done.stdout.split())
    assert "there is no index.json" in done.stdout


def test_what_is_wrong_is_one_sentence_and_writes_nothing(refused, tmp_path):
    store, out = refined(tmp_path / "s"), tmp_path / "d"
    cases = [
        (("--store", tmp_path / "absent"), "there is no such directory"),
        (("--store", store, "--policy", "human"), "is not written in this store"),
        (("--store", store, "--policy", "high_value"), "refinement would find 2, all would find 3"),
        (("--store", store, "--action-pair", "ap_z"), "ask for less"),
        (("--store", store, "--sources", tmp_path / "absent.json"), "the sources cannot be used"),
        (("--store", store, "--results", tmp_path / "absent.jsonl"), "there is no such file"),
    ]
    for arguments, sentence in cases:
        assert sentence in refused("data", "traces", *arguments, "--out", out)
        assert not out.exists()
    assert "exists already" in refused("data", "traces", "--store", store, "--out", store)


def test_answers_that_do_not_fit_are_left_out_by_name(command, refused, tmp_path):
    rows = [
        artifact("a1", history=["x"], content="warm " * 300),
        artifact("a2", pair="ap_b", history=["x"], content="warm"),
    ]
    store = write_store(tmp_path / "s", rows)
    base = ("--base", "builtin/tiny-lumen", "--max-seq-length")
    done = command("data", "traces", "--store", store, "--out", tmp_path / "d", *base, 40, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["left_out"][0]["reason"] == "the answer alone does not fit 40 tokens"
    assert report["left_out"][0]["examples"][0].startswith("a1 in ")
    assert report["notes"][0] == "1 of 1 examples exceed 40 tokens: training cuts the middle of their prompts."
    sentence = refused("data", "traces", "--store", store, "--out", tmp_path / "e", *base, 8, "--action-pair", "ap_a")
    assert "none of the 1 chosen answers fits 8 tokens" in sentence


def test_one_task_is_never_on_two_sides(tmp_path):
    rows = []
    for i in range(60):
        for step in ("ap_a", "ap_b"):
            context = {"specification": f"task {i}"}
            rows.append(artifact(f"{i:02}{step}", pair=step, workflow_id=f"w{i}", history=["x"], context=context))
    card, _ = make_traces_dataset(tmp_path / "d", [write_store(tmp_path / "s", rows)])
    tasks = [{e.meta["task"] for e in read_split(tmp_path / "d", split)} for split in ("train", "valid", "test")]
    assert sum(map(len, tasks)) == 60
    assert all(tasks)
    assert card["counts"]["distinct_specifications"] == 60


def test_there_is_always_something_to_train_on(tmp_path):
    for i in range(30):
        context = {"specification": f"the only task {i}"}
        store = write_store(tmp_path / f"s{i}", [artifact("a1", history=["x"], context=context)])
        make_traces_dataset(tmp_path / f"d{i}", [store])
        assert len(read_split(tmp_path / f"d{i}", "train")) == 1


def test_importing_the_source_loads_nothing_heavy():
    code = (
        "import sys, mlx_lora.sources.traces; print([m for m in ('numpy', 'mlx', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a1": 3}', b'{"a1": "robot"}', b"\xff"])
def test_broken_sources_are_one_sentence(tmp_path, content):
    (tmp_path / "sources.json").write_bytes(content)
    with pytest.raises(UserError, match=r"sources\.json: the sources"):
        make_traces_dataset(tmp_path / "d", [refined(tmp_path / "s")], sources=tmp_path / "sources.json")


def test_empty_specifications_are_said(command, refused, tmp_path):
    empty, told = {"specification": " "}, {"specification": "", "constraints": "Use Python."}
    store = write_store(
        tmp_path / "s",
        [
            artifact("a1"),
            artifact("b1", context=empty, workflow_id="w2", minute=1),
            artifact("c1", context=told, workflow_id="w3", minute=2),
            artifact("d1", context=empty, workflow_id="w4", minute=3, history=["a1"]),
        ],
    )
    done = command("data", "traces", "--store", store, "--policy", "all", "--out", tmp_path / "d", "--json")
    report = json.loads(done.stdout)["report"]
    assert report["kept"] == 3
    (left,) = report["left_out"]
    assert left["reason"].startswith("specification is empty, and there is no history, constraint or dependency")
    assert left["examples"] == [f"b1 in {store}"]
    (note,) = [note for note in report["notes"] if "empty specification" in note]
    assert note.startswith("2 of 3 examples have an empty specification; they are kept")
    assert note.endswith("(c1, d1).")
    plain = command("data", "traces", "--store", store, "--policy", "all", "--plain", "--out", tmp_path / "p", "--json")
    report = json.loads(plain.stdout)["report"]
    assert (report["kept"], report["left_out"][0]["count"]) == (2, 2)  # constraints are not in a plain prompt
    nothing = write_store(tmp_path / "n", [artifact("b1", context=empty)])
    said = refused("data", "traces", "--store", nothing, "--policy", "all", "--out", tmp_path / "x")
    assert "none of the 1 chosen artifacts has a task" in said


@pytest.mark.slow
def test_a_dataset_without_validation_rows_is_said(command, tmp_path):
    store = write_store(tmp_path / "s", [artifact("a1")])
    done = command("data", "traces", "--store", store, "--policy", "all", "--out", tmp_path / "d")
    assert "note: There are no validation rows" in done.stdout
    assert "There are no validation rows" in (tmp_path / "d" / "report.md").read_text()
    options = ("--out", tmp_path / "run", "--set", "model_name=builtin/tiny-lumen", "--dry-run", "--json")
    notes = json.loads(command("train", "--data", tmp_path / "d", *options).stdout)["notes"]
    said = "keep_best and early_stopping_patience do nothing"
    assert [note for note in notes if note.startswith("the data has no validation rows") and note.endswith(said)]
    (tmp_path / "d" / "valid.jsonl").write_text((tmp_path / "d" / "train.jsonl").read_text())
    options = (*options, "--set", "waive_checks=[leaked_rows]")
    notes = json.loads(command("train", "--data", tmp_path / "d", *options).stdout)["notes"]
    assert not [note for note in notes if "validation" in note]
