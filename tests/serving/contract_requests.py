"""Requests of both contracts that train in a second on the built-in base."""

from __future__ import annotations

import time

from job_helpers import BUILT_IN, HANG, as_jsonl, rows

# Keys of the config that make a job small.
SMALL = {"lora_rank": 4, "lora_target_modules": ["q_proj", "v_proj"], "max_seq_length": 256, "save_steps": 2}
TRAIN = {
    "experiment_name": "descriptions",
    "base_model": BUILT_IN,
    "lora_config": {"rank": 4, "alpha": 8},
    "training_config": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "warmup_steps": 1},
    "training_data": [
        {"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]} for row in rows(12)
    ],
}


def upload(client, content: list[dict] | None = None, name: str = "sft.jsonl") -> str:
    """Upload rows with the openai package and return the file's id."""
    data = as_jsonl(rows(24) if content is None else content).encode()
    return client.files.create(file=(name, data), purpose="fine-tune").id


def until(check, what: str = ""):
    """Call ``check`` until it returns something, and return that."""
    deadline = time.monotonic() + HANG
    while not (found := check()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def wait_for(client, job_id: str, *statuses: str):
    """Wait until a job has one of some statuses."""

    def look():
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status in statuses or job.status not in ("succeeded", "failed", "cancelled"), (job.status, job.error)
        return job if job.status in statuses else None

    return until(look, f"{job_id} is not {statuses}")
