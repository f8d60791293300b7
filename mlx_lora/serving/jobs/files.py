"""Files of a job: its directory, its lock and owner, its outcome, and its checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE
from ...errors import UserError
from ...export.tensors import Stored, make_header
from ...files import FORMAT, new_directory, set_aside, write_json
from ...models.parameters import data_start, read_header
from ...models.resolve import check_safetensors
from ...runs.directory import CONFIG_FILE, METRICS_FILE, RUN_FILE, TEMPLATE_FILE, read_run
from ...training.checkpoints import ARRAYS, STATE, Checkpoints
from ...user_files import read_text
from ..records import Job
from ..settings import ServerSettings

Phase = Literal["validate", "train"]
# Prefix of the trained parameters in a checkpoint's arrays; the rest is the optimizer's.
TRAINED = "model."
# Endings of file names by which the readers tell the kinds of files apart.
KINDS = (".csv", ".tsv", ".json", ".parquet")


@dataclass(frozen=True)
class JobDirectory:
    """Directory of a job."""

    path: Path

    @property
    def task(self) -> Path:
        """Task of a worker: the phase, the job's settings and the places of its uploaded files."""
        return self.path / "task.json"

    @property
    def config(self) -> Path:
        """The training config, written by the validation."""
        return self.path / CONFIG_FILE

    @property
    def data(self) -> Path:
        """The dataset directory."""
        return self.path / "data"

    def data_file(self, split: str, name: str) -> Path:
        """Return the place of an uploaded file in the dataset, with the ending of its name that tells its kind."""
        packed = ".gz" if name.lower().endswith(".gz") else ""
        kind = next((kind for kind in KINDS if name.lower().removesuffix(".gz").endswith(kind)), ".jsonl")
        return self.data / f"{split}{kind}{packed}"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.path / "run"

    @property
    def metrics(self) -> Path:
        """The run's events."""
        return self.run / METRICS_FILE

    @property
    def findings(self) -> Path:
        """The worker's own events: findings of the validation."""
        return self.path / "worker.jsonl"

    @property
    def outcome(self) -> Path:
        """End of the last phase."""
        return self.path / "outcome.json"

    @property
    def owner(self) -> Path:
        """The worker's process, as it recorded itself."""
        return self.path / "owner.json"

    @property
    def lock(self) -> Path:
        """Lock that the worker holds as long as it lives."""
        return self.path / "worker.lock"

    @property
    def output(self) -> Path:
        """Output of the last worker."""
        return self.path / "output.log"

    @property
    def description(self) -> Path:
        """The ``adapter_config.json`` of the adapter in training."""
        return self.path / ADAPTER_CONFIG


@dataclass
class Outcome:
    """End of a phase, as its worker recorded it.

    Attributes:
        error: ``{"code", "message", "param"}`` of a failure.
        result: of the training.
    """

    phase: Phase
    status: Literal["done", "failed", "interrupted"]
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


def write_outcome(directory: JobDirectory, outcome: Outcome) -> None:
    """Record the end of a phase."""
    write_json(directory.outcome, {"format": FORMAT, **vars(outcome)})


def read_outcome(directory: JobDirectory) -> Outcome | None:
    """Return the end of the last phase; None: there is none. A file that cannot be read is set aside."""
    if not directory.outcome.exists():
        return None
    try:
        content = json.loads(read_text(directory.outcome))
        phase, status, error, result = (content.get(key) for key in ("phase", "status", "error", "result"))
        known = phase in ("validate", "train") and status in ("done", "failed", "interrupted")
        shaped = isinstance(error, dict | None) and isinstance(result, dict | None)
        if not known or not shaped or (status == "failed" and not isinstance((error or {}).get("message"), str)):
            raise ValueError("it describes no end of a phase")
    except (OSError, ValueError, AttributeError, RecursionError):
        set_aside(directory.outcome)
        return None
    return Outcome(phase, status, error, result)


def job_directory(settings: ServerSettings, job_id: str) -> JobDirectory:
    """Return the directory of a job, which may not exist yet."""
    if not re.fullmatch(r"ftjob-[0-9a-f]{24}", job_id):
        raise ValueError(f"{job_id} is not the id of a job")
    return JobDirectory((settings.jobs / job_id).absolute())


@dataclass
class JobCheckpoint:
    """Checkpoint of a job.

    Attributes:
        directory: the run's checkpoint, with the optimizer's state.
        metrics: ``step``, ``train_loss``, and ``valid_loss`` where the job has validation rows.
    """

    id: str
    step: int
    directory: Path
    metrics: dict[str, float]
    created_at: float


def job_checkpoints(settings: ServerSettings, job: Job) -> list[JobCheckpoint]:
    """Return the checkpoints of a job that are whole, the newest first; older ones are rotated away."""
    found = []
    checkpoints = Checkpoints(job_directory(settings, job.id).run / "checkpoints", 0, writes=False)
    for step in reversed(checkpoints.steps()):
        directory = checkpoints.path(step)
        try:
            content = json.loads(read_text(directory / STATE))
            same, loss, valid = content["step"] == step, content.get("loss"), content.get("last_validation")
            created = (directory / STATE).stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if same and step > 0 and (directory / ARRAYS).exists():
            measured = {"step": step, "train_loss": loss, "valid_loss": valid}
            metrics = {name: float(value) for name, value in measured.items() if isinstance(value, int | float)}
            identity = f"ftckpt-{job.id.removeprefix('ftjob-')}-{step}"
            found.append(JobCheckpoint(identity, step, directory, metrics, created))
    return found


def checkpoint_adapter(settings: ServerSettings, job: Job, step: int) -> Path:
    """Return a directory with the adapter of a checkpoint, as a run's; it stays when the checkpoint is rotated away.

    Raises:
        UserError: the job has no such checkpoint, or it cannot be read.
    """
    directory = job_directory(settings, job.id)
    out = directory.path / "checkpoint-adapters" / f"step-{step:08d}"
    if out.is_dir():
        return out
    checkpoint = next((each for each in job_checkpoints(settings, job) if each.step == step), None)
    if checkpoint is None or not directory.description.exists():
        raise UserError(f"{job.id}: there is no checkpoint of step {step}; list the job's checkpoints")
    check_safetensors(checkpoint.directory / ARRAYS)
    try:
        with new_directory(out) as made:
            _save_trained(checkpoint.directory / ARRAYS, made / ADAPTER_FILE)
            shutil.copyfile(directory.description, made / ADAPTER_CONFIG)
            write_json(made / RUN_FILE, {**read_run(directory.run), "result": None})
            if (directory.run / TEMPLATE_FILE).exists():
                shutil.copyfile(directory.run / TEMPLATE_FILE, made / TEMPLATE_FILE)
    except UserError:
        # Another request may have made it in the meantime.
        if not out.is_dir():
            raise
    return out


def _save_trained(arrays: Path, adapter: Path) -> None:
    """Write the trained parameters of a checkpoint's arrays to a file of their own."""
    start = data_start(arrays)
    trained = {
        name.removeprefix(TRAINED): Stored(arrays, each["dtype"], tuple(each["shape"]), start + each["data_offsets"][0])
        for name, each in read_header(arrays).items()
        if name.startswith(TRAINED)
    }
    with open(adapter, "wb") as file:
        file.write(make_header({name: (each.dtype, each.shape) for name, each in trained.items()}, "mlx"))
        for each in trained.values():
            file.write(each.read().tobytes())


def take_lock(path: Path) -> int | None:
    """Take a lock and return its descriptor, which a child process may inherit; None: another process holds it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
