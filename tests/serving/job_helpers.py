"""Jobs for the tests: a scheduler on a state directory, uploaded files, and waiting for what a job becomes."""

from __future__ import annotations

import hashlib
import json
import time

from mlx_lora.serving.jobs.scheduler import Scheduler
from mlx_lora.serving.records import ENDED, Job, UploadedFile, new_id
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State

BUILT_IN = "builtin/tiny-lumen"
# Small enough to take a second; dropout, so that an inexact resume would show.
SMALL = {"lora_rank": 4, "lora_dropout": 0.1, "num_epochs": 1, "batch_size": 2, "max_seq_length": 256}
HANG = 120


def rows(count: int) -> list[dict]:
    """Conversations that no check has anything against."""
    words = ["amber", "basalt", "cedar", "dahlia", "ember", "fjord", "garnet", "heather", "iris", "juniper"]
    return [
        {
            "messages": [
                {"role": "user", "content": f"Describe {words[i % 10]} number {i} in a {words[i // 10 % 10]} mood."},
                {
                    "role": "assistant",
                    "content": f"It is {words[i * 7 % 10]}, and {words[i * 3 % 10]} by {i * i} parts.",
                },
            ]
        }
        for i in range(count)
    ]


def as_jsonl(content: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in content)


class Desk:
    """Scheduler on a state directory, which may be stopped and started again."""

    def __init__(self, directory, **settings) -> None:
        self.settings = ServerSettings(state=directory, models=directory / "models", **settings)
        self.state = State(directory)
        for place in (self.settings.files, self.settings.jobs):
            place.mkdir(exist_ok=True)
        self.scheduler = Scheduler(self.state, self.settings)

    def __enter__(self):
        self.scheduler.start()
        return self

    def __exit__(self, *_):
        self.scheduler.stop()
        for job in self.state.list_jobs():
            if job.status not in ENDED:
                self.scheduler.cancel(job.id)
        # Ends the workers that are left.
        self.scheduler.start()
        deadline = time.monotonic() + HANG
        while self.scheduler._followed and time.monotonic() < deadline:
            time.sleep(0.05)
        self.scheduler.stop()
        self.state.close()

    def restart(self) -> None:
        """End the scheduler and begin another one, as a server that was killed does."""
        self.scheduler.stop()
        self.scheduler = Scheduler(self.state, self.settings)
        self.scheduler.start()

    def upload(self, content: str | bytes | list[dict], name: str = "sft.jsonl") -> str:
        text = as_jsonl(content) if isinstance(content, list) else content
        data = text.encode() if isinstance(text, str) else text
        identity = new_id("file")
        (self.settings.files / identity).write_bytes(data)
        self.state.add_file(UploadedFile(identity, name, len(data), "fine-tune", hashlib.sha256(data).hexdigest()))
        return identity

    def job(self, content=None, valid=None, model: str = BUILT_IN, name: str = "sft.jsonl", **config) -> Job:
        """Submit a job; ``config`` changes ``SMALL``."""
        training = self.upload(rows(24) if content is None else content, name)
        validation = None if valid is None else self.upload(valid, "valid.jsonl")
        job = Job(new_id("ftjob"), "fine_tuning", model, {}, {**SMALL, **config}, training, validation_file=validation)
        return self.scheduler.submit(job)

    def wait(self, job: Job, *statuses: str) -> Job:
        """Wait until a job has one of some statuses, by default an end."""
        deadline = time.monotonic() + HANG
        while (now := self.state.find_job(job.id)).status not in (statuses or ENDED):
            assert now.status not in ENDED, (now.status, now.error)
            assert time.monotonic() < deadline, (now, self.messages(job))
            time.sleep(0.02)
        return now

    def wait_for_step(self, job: Job, step: int = 1) -> Job:
        deadline = time.monotonic() + HANG
        while (now := self.state.find_job(job.id)).progress.get("step", 0) < step:
            assert now.status not in ENDED, (now.status, now.error)
            assert time.monotonic() < deadline, (now, self.messages(job))
            time.sleep(0.02)
        return now

    def messages(self, job: Job) -> list[str]:
        return [f"{event.level}: {event.message}" for event in self.state.list_events(job.id)]

    def steps(self, job: Job) -> list[int]:
        """The steps of a job's events of progress, in their order."""
        return [event.data["step"] for event in self.state.list_events(job.id) if "train_loss" in event.data]

    def directory(self, job: Job):
        return self.settings.jobs / job.id
