"""Several processes train one adapter: the same curve as one process, written once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

SETTINGS = (
    *("--config", "quickstart", "--set", "lora_rank=4", "--set", "max_steps=9", "--set", "batch_size=6"),
    *("--set", "gradient_accumulation_steps=2", "--set", "log_steps=1", "--set", "eval_steps=4"),
)


@pytest.fixture(scope="module")
def launch():
    """Run ``mlx-lora`` in two processes on loopback; the ports differ from test to test."""
    ports = iter(range(32640, 32900, 20))

    def run(*arguments) -> subprocess.CompletedProcess:
        launcher, command = (Path(sys.executable).with_name(name) for name in ("mlx.launch", "mlx-lora"))
        options = ("-n", "2", "--backend", "ring", "--starting-port", next(ports), "--")
        return subprocess.run(
            [*map(str, (launcher, *options, command, *arguments))],
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def curve(out, event="progress", key="loss"):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if row["event"] == event}


@pytest.fixture(scope="module")
def alone(command, eisv_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "a"
    assert command("train", *SETTINGS, "--data", eisv_data, "--out", out).returncode == 0
    return out


def same(alone, together):
    for event, key in (("progress", "loss"), ("progress", "grad_norm"), ("evaluation", "validation_loss")):
        one, two = curve(alone, event, key), curve(together, event, key)
        assert one.keys() == two.keys()
        assert list(two.values()) == pytest.approx(list(one.values()), rel=2e-3)
    one, two = (load_file(out / "adapters.safetensors") for out in (alone, together))
    for name in one:
        assert np.linalg.norm(two[name] - one[name]) < 2e-2 * np.linalg.norm(one[name]), name


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(alone, launch, eisv_data, tmp_path):
    done = launch("train", *SETTINGS, "--data", eisv_data, "--out", tmp_path / "a", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 9
    same(alone, tmp_path / "a")
    starts = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert starts[0]["processes"] == 2
    # Run again it is over, for both.
    again = launch("train", *SETTINGS, "--data", eisv_data, "--out", tmp_path / "a", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_begun_alone_goes_on_together(alone, command, launch, eisv_data, tmp_path):
    arguments = ("train", *SETTINGS, "--data", eisv_data, "--out", tmp_path / "a")
    shutil.copytree(alone, tmp_path / "a")
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    (tmp_path / "a" / "run.json").write_text(json.dumps({**run, "result": None}))
    for step in (8, 9):
        shutil.rmtree(tmp_path / "a" / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    assert launch(*arguments).returncode == 0
    same(alone, tmp_path / "a")


def test_what_one_process_refuses_ends_both(launch, eisv_data, tmp_path):
    done = launch("train", *SETTINGS, "--data", tmp_path / "absent", "--out", tmp_path / "a")
    # mlx.launch itself ends with 0 whatever its processes do.
    assert "there is no such dataset directory" in done.stderr
    assert "exited with code 2" in done.stderr
    assert not (tmp_path / "a").exists()
