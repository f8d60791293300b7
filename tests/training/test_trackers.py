"""Loggers that ``report_to`` names, the real ones: each step once after a kill, and no server ends a training."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest
from killed_runs import arguments, killed, told
from safetensors.numpy import load_file
from tracker_stores import mlflow_rows, trackio_rows, wandb_rows

from mlx_lora.config import load_config
from mlx_lora.config.training_config import RUN_ONLY
from mlx_lora.errors import UserError
from mlx_lora.processes import python_environment
from mlx_lora.runs.events import Checkpoint, Evaluation, Progress, Start, TrainingResult, append_event
from mlx_lora.training.loggers.measurements import complete_steps
from mlx_lora.training.loggers.tensorboard import tensorboard
from mlx_lora.training.loggers.tracker import BackgroundTracker, TrackedRun, load_trackers

TRACKERS = "report_to=[trackio, wandb, mlflow]"


def progress(step: int) -> Progress:
    return Progress(
        step=step,
        epoch=1,
        learning_rate=0.1,
        loss=2.0,
        unweighted_loss=2.0,
        grad_norm=1.0,
        tokens_per_second=5.0,
        supervised_tokens_per_second=3.0,
        peak_memory_gb=0.1,
    )


@pytest.fixture
def surroundings(tmp_path) -> dict[str, str]:
    """The environment of a user who has no key, no server, and stores below tmp_path."""
    mine = ("WANDB", "MLFLOW", "TRACKIO", "HF_")
    kept = {name: value for name, value in python_environment().items() if not name.startswith(mine)}
    return {
        **kept,
        "HOME": str(tmp_path),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }


def curve(rows, name: str) -> list[tuple[int, float]]:
    return [(step, value) for step, measurement, value in rows if measurement == name]


@pytest.mark.slow
def test_each_step_is_in_each_tracker_once_after_a_kill(command, eisv_data, tmp_path, surroundings):
    from mlflow import MlflowClient

    # MLflow itself cannot be killed while it makes its tables.
    MlflowClient(surroundings["MLFLOW_TRACKING_URI"]).search_experiments()
    out = tmp_path / "run"
    given = arguments(eisv_data, out, TRACKERS)
    # The checkpoint before is that of step 4, so that steps come again.
    killed("step-00000006", tmp_path, given, surroundings)
    assert max(line["step"] for line in told(out, "progress")) == 6
    done = command(*given, "--json", env=surroundings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6
    losses = [(line["step"], line["loss"]) for line in told(out, "progress")]
    assert [step for step, _ in losses] == list(range(1, 7))
    validation = [(line["step"], line["validation_loss"]) for line in told(out, "evaluation")]
    assert [step for step, _ in validation] == [3, 6]
    stores = {
        "trackio": trackio_rows(tmp_path / "trackio"),
        "wandb": wandb_rows(out),
        "mlflow": mlflow_rows(tmp_path / "mlflow.db"),
    }
    for name, rows in stores.items():
        assert curve(rows, "loss") == losses, name
        assert curve(rows, "validation_loss") == validation, name
    warnings = [line["message"] for line in told(out, "warning")]
    assert any("wandb sync" in message for message in warnings)
    assert not any("no more" in message for message in warnings)


@pytest.mark.slow
def test_a_fresh_run_is_another_run_in_the_tracker(command, eisv_data, tmp_path, surroundings):
    given = arguments(eisv_data, tmp_path / "run", "report_to=mlflow", "max_steps=1")
    for _ in range(2):
        assert command(*given, "--fresh", env=surroundings).returncode == 0
    assert len(curve(mlflow_rows(tmp_path / "mlflow.db"), "loss")) == 2


@pytest.mark.slow
def test_servers_that_cannot_be_reached_end_no_training(command, eisv_data, tmp_path, surroundings):
    nowhere = "http://127.0.0.1:9"
    servers = {"MLFLOW_TRACKING_URI": nowhere, "TRACKIO_SERVER_URL": f"{nowhere}/?write_token=x"}
    servers |= {"WANDB_BASE_URL": nowhere, "WANDB_API_KEY": "a" * 40, "WANDB_INIT_TIMEOUT": "5"}
    out, alone = tmp_path / "run", tmp_path / "alone"
    done = command(*arguments(eisv_data, out, TRACKERS), "--json", env={**surroundings, **servers})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6
    assert command(*arguments(eisv_data, alone), env=surroundings).returncode == 0
    adapters = [load_file(place / "adapters.safetensors") for place in (out, alone)]
    assert all((adapters[0][name] == value).all() for name, value in adapters[1].items())
    said = [line["message"] for line in told(out, "warning")]
    for name in ("trackio", "wandb", "mlflow"):
        assert len([message for message in said if message.startswith(name)]) == 1, said


@pytest.mark.slow
def test_what_wandb_wrote_is_read_over_many_blocks(tmp_path, surroundings):
    script = (
        "import wandb, sys\n"
        "settings = wandb.Settings(silent=True)\n"
        "run = wandb.init(project='p', id='abc', dir=sys.argv[1], mode='offline', settings=settings)\n"
        "for step in range(1, 301):\n"
        "    run.log({f'{n}': step * 'x' if n == 1 else step + n for n in range(40)}, step=step)\n"
        "run.finish()\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(run, env=surroundings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # As a resumed run reads it: when the process that wrote it has ended.
    from mlx_lora.training.loggers.wandb_offline import last_step

    assert (last_step(tmp_path, "abc"), last_step(tmp_path, "another")) == (300, 0)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 3 * 32 * 1024


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow", "tensorboard"])
def test_a_logger_that_is_not_installed_is_refused_first(name, tmp_path, monkeypatch):
    package = "tensorboardX" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"mlx_lora.training.loggers.{name}", raising=name == "tensorboard")
    with pytest.raises(UserError, match=rf"the logger {name} needs an extra: pip install 'mlx-lora\[{name}\]'"):
        tensorboard(tmp_path) if name == "tensorboard" else load_trackers([name])


@pytest.mark.parametrize(
    ("text", "names"),
    [("wandb", ["wandb"]), ("none", []), ("", []), ("[mlflow, tensorboard]", ["mlflow", "tensorboard"])],
)
def test_the_names_in_a_config(text, names):
    assert load_config(None, [f"report_to={text}"]).report_to == names
    assert {"report_to", "run_name"} <= RUN_ONLY


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("report_to=comet", "report_to must be a list of tensorboard, trackio, wandb, mlflow, not 'comet'"),
        ("report_to=[wandb, 7]", "report_to must be a list of tensorboard, trackio, wandb, mlflow, not"),
        ('run_name="a\\nb"', "run_name must be 1 to 200 printable characters"),
        ("run_name=''", "run_name must be 1 to 200 printable characters"),
    ],
)
def test_wrong_names_in_a_config(setting, said):
    with pytest.raises(UserError, match=said):
        load_config(None, [setting])


def test_a_step_is_complete_when_no_more_of_it_can_come():
    last = Evaluation(step=2, epoch=1, validation_loss=1.5, losses={"a": 1.0})
    end = TrainingResult(steps=3, loss=2.0, validation_loss=1.5, best_step=2, tokens=9, seconds=1.0)
    events = [progress(1), progress(2), last, Checkpoint(step=2), progress(3)]
    steps = list(complete_steps(events))
    assert [step for step, _ in steps] == [1, 2]
    assert steps[1][1]["validation_loss/a"] == 1.0
    assert steps[1][1]["loss"] == 2.0
    assert "step" not in steps[1][1]
    assert [step for step, _ in complete_steps([*events, end])] == [1, 2, 3]


def test_names_that_mlflow_takes(tmp_path):
    from mlflow.utils.validation import _validate_metric_name

    from mlx_lora.training.loggers.mlflow import _name

    assert _name("validation_loss") == "validation_loss"
    for part in ("/data/ä b", "../x", "a//b", "C:\\x", "7", ""):
        _validate_metric_name(_name(f"validation_loss/{part}"))
    assert _name("validation_loss//data/a") != _name("validation_loss//data/b")


class Unreachable:
    """A tracker that hangs until it is released, or fails at a step."""

    def __init__(self, hangs: bool) -> None:
        self.hangs, self.released = hangs, threading.Event()

    def open(self) -> int:
        if self.hangs:
            self.released.wait(60)
        return 0

    def log(self, step, measured) -> None:
        raise ConnectionError("the server is gone\nTraceback")

    def close(self, finished) -> None:
        raise AssertionError("it was never open")


@pytest.mark.parametrize("hangs", [True, False])
def test_a_tracker_that_hangs_or_fails_costs_one_warning(tmp_path, hangs):
    made, said = Unreachable(hangs), []
    start = Start(step=0, model="m", trainable_parameters=1, train_examples=1, valid_examples=0, total_steps=9)
    append_event(tmp_path / "metrics.jsonl", start)
    run = TrackedRun("id", "name", tmp_path, {})
    tracker = BackgroundTracker("mlflow", lambda run, warn: made, run, [said.append])
    for event in (start, *map(progress, range(1, 9))):
        tracker(event)
    tracker.stop()
    tracker.wait(time.monotonic() + (0.05 if hangs else 60))
    (warning,) = said
    assert warning.step == 8 or not hangs
    assert "\n" not in warning.message
    assert ("too slow" if hangs else "the server is gone") in warning.message
    made.released.set()
