"""Jobs from submission to their end, with real workers on the built-in base."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
from job_helpers import BUILT_IN, HANG, Desk, rows
from safetensors.numpy import load_file

from mlx_lora.errors import UserError
from mlx_lora.evaluation.targets.opening import open_target
from mlx_lora.serving.api_error import ApiError
from mlx_lora.serving.jobs import scheduler as scheduler_module
from mlx_lora.serving.jobs.files import checkpoint_adapter, job_checkpoints, job_directory, read_outcome
from mlx_lora.serving.jobs.worker_process import WorkerProcess


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path / "state") as made:
        yield made


def refusal(call, *arguments) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    return caught.value


def in_worker(monkeypatch, tmp_path, code: str) -> None:
    """Let every worker run some code first: Python imports ``sitecustomize`` at its start."""
    place = tmp_path / "first"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        f"import sys\nif 'mlx_lora.serving.jobs.worker' in sys.orig_argv:\n    {code}\n"
    )
    monkeypatch.syspath_prepend(str(place))


def test_a_job_is_validated_trained_and_succeeds(desk):
    job = desk.job(valid=rows(30)[24:])
    done = desk.wait(job)
    assert done.status == "succeeded", (done.error, desk.messages(job))
    assert done.fine_tuned_model == f"ft:{BUILT_IN}::{job.id.removeprefix('ftjob-')}"
    assert done.created_at < done.started_at < done.finished_at
    assert done.trained_tokens == done.progress["tokens"] > 0
    run = json.loads((desk.directory(job) / "run" / "run.json").read_text())["result"]
    assert (done.progress["step"], done.progress["total_steps"], done.progress["epoch"]) == (12, 12, 1)
    assert (done.progress["loss"], done.progress["valid_loss"]) == (run["loss"], run["validation_loss"])
    events = desk.state.list_events(job.id)
    messages = [event.message for event in events if event.type == "message" and event.level == "info"]
    order = ["Created", "Validating", "Files validated", "Fine-tuning job started", "Training starts", "New fine-tuned"]
    places = [next(i for i, message in enumerate(messages) if message.startswith(begin)) for begin in order]
    assert places == sorted(places)
    assert messages[-1] == "The job has successfully completed"
    steps = [event.data for event in events if "train_loss" in event.data]
    assert [data["step"] for data in steps] == list(range(1, 13))
    assert steps[-1] == {**steps[-1], "train_loss": run["loss"], "total_steps": 12, "epoch": 1}
    assert [event.data["valid_loss"] for event in events if "valid_loss" in event.data] == [run["validation_loss"]]
    check_checkpoints(desk, done, run["best_step"])


def check_checkpoints(desk, job, best):
    """The checkpoints that are left, and the adapter that is made of the best one, which the run kept."""
    found = job_checkpoints(desk.settings, job)
    assert [each.step for each in found] == [12, 11, 10]
    assert found[0].metrics == {
        "step": 12,
        "train_loss": job.progress["loss"],
        "valid_loss": job.progress["valid_loss"],
    }
    assert len({each.id for each in found}) == 3
    run = desk.directory(job) / "run"
    directory = checkpoint_adapter(desk.settings, job, best)
    ours, whole = (load_file(place / "adapters.safetensors") for place in (directory, run))
    assert ours.keys() == whole.keys()
    assert all((ours[name] == whole[name]).all() for name in whole)
    assert (directory / "adapter_config.json").read_bytes() == (run / "adapter_config.json").read_bytes()
    shutil.rmtree(run / "checkpoints")
    assert checkpoint_adapter(desk.settings, job, best) == directory
    with pytest.raises(UserError, match="no checkpoint of step 11"):
        checkpoint_adapter(desk.settings, job, 11)
    open_target(str(directory)).close()


@pytest.mark.slow
def test_pause_resume_and_another_server_change_nothing_of_the_adapter(desk):
    """A second server adopts the worker of the first, and pauses it; a third one resumes the job."""
    undisturbed = desk.job()
    desk.wait(undisturbed)
    job = desk.job()
    desk.wait_for_step(job, 2)
    owner = (desk.directory(job) / "owner.json").read_text()
    desk.restart()
    assert desk.scheduler.pause(job.id).wish == "pause"
    paused = desk.wait(job, "paused")
    assert (desk.directory(job) / "owner.json").read_text() == owner
    assert 2 <= paused.progress["step"] < 12
    assert paused.wish is None
    desk.restart()
    time.sleep(0.5)
    assert desk.state.find_job(job.id).status == "paused"
    assert desk.scheduler.resume(job.id).status == "queued"
    assert desk.wait(job).status == "succeeded"
    one, two = (desk.directory(each) / "run" / "adapters.safetensors" for each in (undisturbed, job))
    assert one.read_bytes() == two.read_bytes()
    assert desk.messages(job).count("info: Job paused") == 1
    assert desk.steps(job) == desk.steps(undisturbed) == list(range(1, 13))


@pytest.mark.slow
def test_the_oldest_job_trains_first_and_validation_does_not_wait(desk):
    first = desk.job(num_epochs=40)
    desk.wait_for_step(first)
    second, third = desk.job(), desk.job()
    broken = desk.job("{")
    assert desk.wait(broken).status == "failed"
    assert desk.state.find_job(first.id).status == "running"
    assert [desk.scheduler.position(job.id) for job in (first, second, third)] == [None, 0, 1]
    desk.scheduler.cancel(first.id)
    desk.wait(third)
    ends = [desk.state.find_job(job.id) for job in (second, third)]
    assert [job.status for job in ends] == ["succeeded", "succeeded"]
    assert ends[0].finished_at <= ends[1].started_at


@pytest.mark.slow
def test_a_full_queue_refuses(tmp_path):
    with Desk(tmp_path / "state", most_jobs_waiting=1) as desk:
        first = desk.job(num_epochs=40)
        error = refusal(desk.job)
        assert (error.status, error.code) == (429, "queue_full")
        desk.wait_for_step(first)
        desk.job()
        assert len(desk.state.list_jobs()) == 2


@pytest.mark.slow
def test_pause_while_validating_and_while_queued(desk):
    first = desk.job()
    second = desk.job()
    assert desk.scheduler.pause(first.id).status == "validating_files"
    desk.wait(first, "paused")
    desk.wait(second)
    long = desk.job(num_epochs=40)
    desk.wait_for_step(long)
    third = desk.job()
    desk.wait(third, "queued")
    assert desk.scheduler.pause(third.id).status == "paused"
    desk.scheduler.resume(first.id)
    desk.scheduler.cancel(long.id)
    assert desk.wait(first).status == "succeeded"
    assert desk.state.find_job(third.id).status == "paused"


@pytest.mark.slow
def test_cancel_in_every_status(desk):
    running = desk.job(num_epochs=40)
    desk.wait_for_step(running)
    pid = json.loads((desk.directory(running) / "owner.json").read_text())["pid"]
    queued, paused = desk.job(), desk.job()
    desk.wait(paused, "queued")
    desk.scheduler.pause(paused.id)
    validating = desk.job()
    for job in (running, queued, paused, validating):
        assert desk.scheduler.cancel(job.id).status == "cancelled"
        error = refusal(desk.scheduler.cancel, job.id)
        assert (error.status, "the job is cancelled" in error.message) == (409, True)
    # The next one trains when the worker has ended.
    desk.wait(desk.job(), "running")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    ended = desk.state.find_job(running.id)
    assert (ended.status, ended.wish) == ("cancelled", None)
    assert ended.finished_at is not None
    assert desk.messages(running)[-1] == "info: Job cancelled"


@pytest.mark.slow
def test_a_cancelled_worker_that_does_not_end_is_killed(desk, monkeypatch):
    monkeypatch.setattr(scheduler_module, "PATIENCE", 0.3)
    job = desk.job(num_epochs=40)
    desk.wait_for_step(job)
    pid = json.loads((desk.directory(job) / "owner.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    desk.scheduler.cancel(job.id)
    assert desk.wait(desk.job()).status == "succeeded"


def test_requests_that_the_status_does_not_allow(desk):
    for act in (desk.scheduler.pause, desk.scheduler.resume, desk.scheduler.cancel):
        assert refusal(act, "ftjob-none").status == 404
    job = desk.job("{")
    assert refusal(desk.scheduler.resume, job.id).status == 409
    desk.wait(job)
    for act in (desk.scheduler.pause, desk.scheduler.resume, desk.scheduler.cancel):
        error = refusal(act, job.id)
        assert (error.status, error.code) == (409, "wrong_status")
        assert "the job is failed" in error.message


def wait_for_end(desk, job):
    deadline = time.monotonic() + HANG
    while not (desk.directory(job) / "outcome.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_that_ends_while_no_server_runs(desk):
    job = desk.job()
    desk.wait_for_step(job)
    desk.scheduler.stop()
    wait_for_end(desk, job)
    assert desk.state.find_job(job.id).status == "running"
    desk.restart()
    assert desk.wait(job).status == "succeeded"
    assert desk.steps(job) == list(range(1, 13))


@pytest.mark.slow
def test_a_damaged_outcome_is_kept_and_the_job_resumes(desk):
    job = desk.job()
    desk.wait_for_step(job)
    desk.scheduler.stop()
    wait_for_end(desk, job)
    (desk.directory(job) / "outcome.json").write_text("{")
    adapter = (desk.directory(job) / "run" / "adapters.safetensors").read_bytes()
    desk.restart()
    assert desk.wait(job).status == "succeeded"
    assert (desk.directory(job) / "outcome.json.unreadable-1").read_text() == "{"
    assert (desk.directory(job) / "run" / "adapters.safetensors").read_bytes() == adapter


@pytest.mark.slow
def test_cancelled_while_no_server_runs_is_ended_by_the_next(desk):
    job = desk.job(num_epochs=40)
    desk.wait_for_step(job)
    directory = job_directory(desk.settings, job.id)
    desk.scheduler.stop()
    desk.scheduler.cancel(job.id)
    assert WorkerProcess(directory, "train").alive()
    desk.restart()
    # The next one trains when the worker has ended.
    desk.wait(desk.job(), "running")
    assert not WorkerProcess(directory, "train").alive()
    assert read_outcome(directory).status == "interrupted"
    assert desk.state.find_job(job.id).wish is None


def test_a_worker_that_dies_at_every_start(desk, monkeypatch, tmp_path):
    in_worker(monkeypatch, tmp_path, "import os; print('no such device', flush=True); os.abort()")
    job = desk.job()
    done = desk.wait(job)
    assert done.status == "failed"
    assert "started 3 times" in done.error["message"]
    assert "SIGABRT" in done.error["message"]
    assert "no such device" in done.error["message"]
    assert done.attempts == 3


def test_a_worker_that_cannot_be_started(desk):
    desk.scheduler.stop()
    job = desk.job()
    desk.directory(job).write_text("in the way")
    desk.restart()
    done = desk.wait(job)
    assert done.status == "failed"
    assert "it cannot be started" in done.error["message"]
    assert desk.directory(job).read_text() == "in the way"


@pytest.mark.slow
def test_a_full_disk_while_training_fails_the_job_with_a_sentence(desk, monkeypatch, tmp_path):
    """A limit below the size of a checkpoint, but above that of the small files, as of a disk that is nearly full."""
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    in_worker(monkeypatch, tmp_path, code + "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))")
    job = desk.job()
    done = desk.wait(job)
    assert done.status == "failed"
    assert "the disk is full" in done.error["message"]
    assert refusal(desk.scheduler.resume, job.id).status == 409
    assert not list((desk.directory(job) / "run" / "checkpoints").glob("*"))


@pytest.mark.slow
def test_a_full_disk_of_the_server_loses_no_event(desk):
    job = desk.job(num_epochs=2)
    desk.wait_for_step(job)
    # SQLite refuses to grow the file, as on a full disk.
    with desk.state._lock:
        pages = desk.state._connection.execute("PRAGMA page_count").fetchone()[0]
        desk.state._connection.execute(f"PRAGMA max_page_count={pages}")
    wait_for_end(desk, job)
    with desk.state._lock:
        desk.state._connection.execute("PRAGMA max_page_count=1000000")
    assert desk.wait(job).status == "succeeded"
    assert desk.steps(job) == list(range(1, 25))


@pytest.mark.slow
def test_two_servers_on_one_state_do_no_harm(desk, tmp_path):
    """The server's own lock refuses the second one; without it a job still has one worker."""
    job = desk.job(num_epochs=3)
    with_other = scheduler_module.Scheduler(desk.state, desk.settings)
    with_other.start()
    try:
        assert desk.wait(job).status == "succeeded"
    finally:
        with_other.stop()
    assert desk.steps(job) == list(range(1, 37))


@pytest.mark.slow
def test_a_state_that_was_moved_resumes(tmp_path):
    desk = Desk(tmp_path / "before")
    desk.scheduler.start()
    job = desk.job()
    desk.wait_for_step(job)
    desk.scheduler.pause(job.id)
    desk.wait(job, "paused")
    desk.scheduler.stop()
    desk.state.close()
    (tmp_path / "before").rename(tmp_path / "after")
    with Desk(tmp_path / "after") as moved:
        moved.scheduler.resume(job.id)
        assert moved.wait(job).status == "succeeded"
        assert moved.steps(job) == list(range(1, 13))
