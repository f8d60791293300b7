"""A run on torch that is killed, or shared by several processes, ends as the one that never was."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from backend_fixtures import curve
from safetensors.numpy import load_file

CONFIG = {
    "backend": "torch",
    "lora_dropout": 0.1,
    "lora_rank": 4,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_epochs": 2,
    "save_steps": 4,
    "eval_steps": 5,
    "log_steps": 1,
    "weight_decay": 0.1,
}


@pytest.fixture(scope="module")
def settings(make_model, eisv_data, tmp_path_factory):
    """A config file of one small run; more keys may be given."""
    model = make_model("llama")

    def write(**more):
        file = tmp_path_factory.mktemp("config") / "c.json"
        file.write_text(json.dumps({**CONFIG, "model_name": str(model), "data": str(eisv_data), **more}))
        return ["train", "--config", str(file), "--json", "--out"]

    return write


def finish(command, *arguments):
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def adapters(*directories):
    return [load_file(directory / "adapters.safetensors") for directory in directories]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_kills_change_no_bit(command, settings, tmp_path, optimizer):
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    # A rank at which some matrices are large enough for eight bits, and some are not.
    arguments = settings(optimizer=optimizer, lora_rank=64)
    whole = finish(command, *arguments, tmp_path / "whole")
    out = tmp_path / "killed"
    for moment in (5, 18):
        process = subprocess.Popen([sys.executable, "-m", "mlx_lora", *arguments, str(out)], stdout=subprocess.DEVNULL)
        while process.poll() is None and (not (out / "metrics.jsonl").exists() or max(curve(out), default=0) < moment):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert finish(command, *arguments, out)["steps"] == whole["steps"]
    one, two = adapters(tmp_path / "whole", out)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert curve(out) == curve(tmp_path / "whole")


def test_eight_bit_adamw_learns_as_adamw_does(command, settings, tmp_path):
    pytest.importorskip("bitsandbytes")
    losses = {}
    for optimizer in ("adamw", "adamw8bit"):
        finish(command, *settings(optimizer=optimizer, lora_rank=64, lora_dropout=0.0), tmp_path / optimizer)
        losses[optimizer] = list(curve(tmp_path / optimizer).values())
    assert losses["adamw8bit"] == pytest.approx(losses["adamw"], rel=0.03)
    assert losses["adamw8bit"] != losses["adamw"]


def test_a_full_disk_is_one_sentence_and_keeps_the_last_good_state(command, settings, tmp_path):
    import resource

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    arguments = settings(max_steps=6)
    whole = finish(command, *arguments, tmp_path / "whole")
    done = command(*arguments, tmp_path / "run", preexec_fn=small_files)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "the disk is full" in done.stderr
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert finish(command, *arguments, tmp_path / "run")["loss"] == whole["loss"]


@pytest.fixture(scope="module")
def torchrun():
    """Run ``mlx-lora`` in two processes with gloo on loopback, as torchrun launches them."""

    def run(*arguments) -> subprocess.CompletedProcess:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        return subprocess.run(
            [*launcher, "mlx_lora", *map(str, arguments)], capture_output=True, text=True, timeout=240
        )

    return run


TOGETHER = {"lora_dropout": 0.0, "batch_size": 6, "max_steps": 9}


@pytest.fixture(scope="module")
def alone(command, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "a"
    finish(command, *settings(**TOGETHER), out)
    return out


def assert_alike(alone, together):
    for event, key in (("progress", "loss"), ("progress", "grad_norm"), ("evaluation", "validation_loss")):
        one, two = curve(alone, event, key), curve(together, event, key)
        assert one.keys() == two.keys()
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    one, two = adapters(alone, together)
    for name in one:
        assert np.linalg.norm(two[name] - one[name]) < 1e-2 * np.linalg.norm(one[name]), name


def test_two_processes_follow_the_curve_of_one(alone, torchrun, settings, tmp_path):
    # By `auto`, since torchrun itself says which backend it is for.
    done = torchrun(*settings(**TOGETHER, backend="auto"), tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 9
    assert_alike(alone, tmp_path / "a")
    start = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    assert (start["processes"], start["backend"]) == (2, "torch")


def test_a_run_begun_alone_goes_on_together(alone, torchrun, settings, tmp_path):
    out = tmp_path / "a"
    shutil.copytree(alone, out)
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "result": None}))
    for step in (8, 9):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    done = torchrun(*settings(**TOGETHER), out)
    assert done.returncode == 0, done.stderr
    assert_alike(alone, out)


def test_what_one_process_refuses_ends_both(torchrun, settings, tmp_path):
    done = torchrun(*settings(data=str(tmp_path / "absent")), tmp_path / "a")
    assert done.returncode != 0
    assert "there is no such dataset directory" in done.stderr
    assert not (tmp_path / "a").exists()
