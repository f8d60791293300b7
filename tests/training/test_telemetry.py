"""telemetry.jsonl: its lines, after a kill too, and the validation of claims."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from killed_runs import arguments, killed, told

from mlx_lora.processes import python_environment
from mlx_lora.runs.telemetry import record_validation


def lines(out):
    return [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]


def of(out, metric):
    return [(line["step"], line["value"]) for line in lines(out) if line["metric"] == metric]


@pytest.fixture(scope="module")
def resumed(command, eisv_data, tmp_path_factory):
    """A run that was killed while it wrote the checkpoint of step 6, and resumed from that of step 4."""
    place = tmp_path_factory.mktemp("telemetry")
    out = place / "run"
    given = arguments(eisv_data, out)
    killed("step-00000006", place, given, python_environment())
    assert [step for step, _ in of(out, "loss")] == [1, 2, 3, 4, 5, 6]
    done = command(*given)
    assert done.returncode == 0, done.stderr
    return out


def test_every_line_has_the_published_shape(resumed):
    found = lines(resumed)
    (run_id,) = {line["run_id"] for line in found}
    assert run_id == json.loads((resumed / "run.json").read_text())["id"]
    for line in found:
        assert list(line) == ["run_id", "metric", "value", "step", "timestamp", "metadata"]
        assert isinstance(line["value"], int | float)
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        assert line["metadata"]["name"] == "a night's run"


def test_a_resumed_run_has_each_step_once(resumed):
    progress = told(resumed, "progress")
    assert of(resumed, "loss") == [(line["step"], line["loss"]) for line in progress]
    assert of(resumed, "epoch") == [(line["step"], line["epoch"]) for line in progress]
    assert [step for step, _ in of(resumed, "loss")] == [1, 2, 3, 4, 5, 6]
    # As in metrics.jsonl, each session says where it started.
    size = told(resumed, "start")[0]["train_examples"]
    assert of(resumed, "dataset_size") == [(0, size), (4, size)]
    (complete,) = told(resumed, "complete")
    assert of(resumed, "final_loss") == [(6, complete["loss"])]
    assert of(resumed, "duration_ms") == [(6, round(complete["seconds"] * 1000))]


def test_the_metadata_of_each_event(resumed):
    events = [line["metadata"] for line in lines(resumed)]
    assert events[0] == {
        "event": "start",
        "name": "a night's run",
        "base_model": "builtin/tiny-lumen",
        "lora_rank": 16,
        "epochs": 10,
    }
    assert [event["event"] for event in events[-2:]] == ["complete", "complete"]
    assert {event["event"] for event in events} == {"start", "progress", "complete"}


def test_the_validation_of_claims_is_recorded(resumed, command):
    before = lines(resumed)
    arguments = ("--suite", "claims_validation", "--target", resumed, "--max-tokens", "4", "--json")
    done = command("eval", *arguments)
    report = json.loads(done.stdout)
    added = lines(resumed)[len(before) :]
    assert lines(resumed)[: len(before)] == before
    assert [line["metric"] for line in added] == [
        *("schema_compliance", "citation_accuracy", "mean_entailment", "mean_similarity")
    ]
    stages = ("schema", "citation", "entailment", "similarity")
    assert [line["value"] for line in added] == [report[stage] for stage in stages]
    record_validation(str(resumed), dict(zip(stages, (0.1, 0.2, 0.3, 0.4), strict=True)), 3)
    assert [line["value"] for line in lines(resumed)[-4:]] == [0.1, 0.2, 0.3, 0.4]
    for line in added:
        assert line["metadata"]["event"] == "validation complete"
        assert line["metadata"]["claim_count"] == round(report["claims"] * 20)
        assert line["step"] == json.loads((resumed / "run.json").read_text())["result"]["best_step"]
        assert line["run_id"] == before[0]["run_id"]


def test_other_targets_have_no_telemetry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = dict.fromkeys(("schema", "citation", "entailment", "similarity"), 1.0)
    for target in ("builtin/tiny-lumen", "http://127.0.0.1/v1#m", str(tmp_path)):
        record_validation(target, metrics, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_has_no_telemetry(command, eisv_data, tmp_path):
    out = tmp_path / "run"
    given = arguments(eisv_data, out)
    killed("step-00000006", tmp_path, given, python_environment())
    for file in out.glob("checkpoints/*/state.json"):
        content = json.loads(file.read_text())
        assert content.pop("telemetry_bytes") > 0
        file.write_text(json.dumps(content))
    (out / "telemetry.jsonl").unlink()
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({key: value for key, value in run.items() if key != "id"}))
    assert command(*given).returncode == 0
    assert [step for step, _ in of(out, "loss")] == [5, 6]
    assert lines(out)[0]["run_id"] == json.loads((out / "run.json").read_text())["id"]
