"""Worker process: start, liveness and signals, of this server's own children and of an earlier server's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

from ...errors import LONGEST
from ...files import is_locked, write_json
from ...processes import exit_cause, last_lines, python_command, python_environment, recorded_owner
from .files import JobDirectory, Phase, take_lock

# Seconds after which a worker that was asked to end for a cancelled job is killed.
PATIENCE = 20.0
# Bytes at the end of a worker's output that are read for its last line.
READ = 2**14


class WorkerProcess:
    """Worker of a job, started here or adopted: an adopted one is known by its lock and its owner file alone.

    Attributes:
        failure: why it could not be started.
    """

    def __init__(
        self,
        directory: JobDirectory,
        phase: Phase,
        process: subprocess.Popen[bytes] | None = None,
        failure: str | None = None,
    ) -> None:
        self.directory, self.phase, self.failure = directory, phase, failure
        self._process = process
        self._signalled: float | None = None

    def alive(self) -> bool:
        """Return True if it has not ended."""
        if self._process is not None:
            return self._process.poll() is None
        return is_locked(self.directory.lock)

    def terminate(self, patience: float | None = None) -> None:
        """Ask it once to end cleanly, and kill its session where it has not after ``patience`` seconds."""
        pid = self._pid()
        if pid is None:
            return
        if self._signalled is None:
            self._signalled = time.monotonic()
            _signal(pid, signal.SIGTERM)
        elif patience is not None and time.monotonic() - self._signalled > patience:
            _signal(pid, signal.SIGKILL)

    def _pid(self) -> int | None:
        """Return the number of a process that is certainly the worker: a dead one's may be another program's."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        # Written under the lock and removed before each start, so that while it is held this is the holder's.
        owner = recorded_owner(self.directory.owner)
        return owner["pid"] if owner and isinstance(owner["pid"], int) and self.alive() else None

    def ending(self) -> str:
        """Return how it ended without an outcome, with the last line of its output."""
        if self.failure is not None:
            return f"it cannot be started ({self.failure})"
        cause = "" if self._process is None else f" ({exit_cause(self._process.returncode)})"
        try:
            with open(self.directory.output, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - READ))
                lines = last_lines(file.read().decode(errors="replace"))
        except OSError:
            lines = []
        said = f"the last line of its output is: {lines[0][:LONGEST]}" if lines else "it printed nothing"
        return f"it ended without a result{cause}; {said}"


def _signal(pid: int, number: int) -> None:
    """Signal a worker; its whole session where that is to kill it."""
    try:
        if number == signal.SIGKILL:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def start_worker(directory: JobDirectory, phase: Phase, task: dict[str, Any]) -> WorkerProcess:
    """Start the worker of a phase, in a session of its own; one that lives already is returned instead.

    Args:
        task: ``model``, ``config``, ``seed``, ``backend``, and for each of ``files`` (``training_file`` and
            ``validation_file``) its ``source``, its ``place`` in the dataset and the ``name`` its client gave it.

    Raises:
        UserError, OSError: the file system refuses, or the machine has no room for a process.
    """
    directory.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = take_lock(directory.lock)
    if lock is None:
        return WorkerProcess(directory, phase)
    try:
        for file in (directory.owner, directory.outcome):
            file.unlink(missing_ok=True)
        write_json(directory.task, {"phase": phase, **task})
        with open(directory.output, "wb") as output:
            process = subprocess.Popen(
                python_command("mlx_lora.serving.jobs.worker", str(directory.path), str(lock)),
                cwd=directory.path,
                env=python_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # The child holds the lock from its first moment on: a server that dies now finds it held.
                pass_fds=(lock,),
            )
    finally:
        os.close(lock)
    return WorkerProcess(directory, phase, process)
