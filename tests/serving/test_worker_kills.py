"""Kills of server and worker at random moments: no job is lost or runs for ever, and adapters are the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from job_helpers import HANG, Desk

from mlx_lora.processes import python_environment
from mlx_lora.serving.jobs.files import JobDirectory
from mlx_lora.serving.jobs.worker_process import WorkerProcess
from mlx_lora.serving.records import ENDED


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """The adapter of a job that nothing disturbed."""
    with Desk(tmp_path_factory.mktemp("undisturbed") / "state") as desk:
        job = desk.job(num_epochs=2)
        assert desk.wait(job).status == "succeeded"
        return adapter(desk, job)


def adapter(desk, job) -> bytes:
    return (desk.directory(job) / "run" / "adapters.safetensors").read_bytes()


class Server:
    """Process of a scheduler."""

    def __init__(self, state: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("scheduler_process.py")), str(state)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=python_environment())
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def kill_worker(desk) -> bool:
    """Kill a worker that lives, with its session; returns whether there was one."""
    for job in desk.state.list_jobs(["validating_files", "running"]):
        pid = WorkerProcess(JobDirectory(desk.directory(job)), "train")._pid()
        if pid:
            os.killpg(pid, signal.SIGKILL)
            return True
    return False


def wait_for_a_step(desk) -> None:
    """Wait until some job's metrics grow."""

    def size() -> int:
        total = 0
        for file in desk.settings.jobs.glob("*/run/metrics.jsonl"):
            # A run that starts over removes it.
            with suppress(FileNotFoundError):
                total += file.stat().st_size
        return total

    before, deadline = size(), time.monotonic() + HANG
    while size() <= before:
        before = min(before, size())
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_with_kills(desk, kills: int, seed: int):
    """Keep two jobs going until so many kills have met a living process; returns all jobs."""
    rng, jobs, met = random.Random(seed), [], {"server": 0, "worker": 0}
    server = Server(desk.settings.state)
    try:
        while sum(met.values()) < kills:
            if desk.state.count_jobs(["validating_files", "queued", "running"]) < 2:
                jobs.append(desk.job(num_epochs=2))
            # Every other kill comes after a further step, the others at any moment, of a start mostly.
            if sum(met.values()) % 2:
                wait_for_a_step(desk)
                time.sleep(rng.uniform(0, 0.3))
            else:
                time.sleep(rng.uniform(0.1, 2.5))
            if rng.random() < 0.4:
                server.kill()
                met["server"] += 1
                # Sometimes both die, before the next server looks.
                met["worker"] += rng.random() < 0.5 and kill_worker(desk)
                server = Server(desk.settings.state)
            else:
                met["worker"] += kill_worker(desk)
        deadline = time.monotonic() + 2 * HANG
        while desk.state.count_jobs(["validating_files", "queued", "running"]):
            assert time.monotonic() < deadline, [(job.status, job.progress) for job in desk.state.list_jobs()]
            time.sleep(0.1)
    finally:
        server.kill()
    assert min(met.values()) > 0, met
    return jobs


def check(desk, jobs, undisturbed):
    for job in jobs:
        now = desk.state.find_job(job.id)
        assert now.status == "succeeded", (now, desk.messages(job))
        assert adapter(desk, job) == undisturbed
        assert desk.steps(job) == list(range(1, 25))
        assert json.loads((desk.directory(job) / "outcome.json").read_text())["status"] == "done"
        assert not WorkerProcess(JobDirectory(desk.directory(job)), "train").alive()
    assert {job.status for job in desk.state.list_jobs()} <= set(ENDED)
    assert len(desk.state.list_jobs()) == len(jobs)


def test_four_kills(tmp_path, undisturbed):
    desk = Desk(tmp_path / "state")
    check(desk, run_with_kills(desk, 4, seed=3), undisturbed)
    desk.state.close()


@pytest.mark.slow
def test_a_hundred_kills(tmp_path, undisturbed):
    desk = Desk(tmp_path / "state")
    check(desk, run_with_kills(desk, 100, seed=4), undisturbed)
    desk.state.close()
