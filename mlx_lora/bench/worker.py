"""Worker process of one side, which answers one spec after another."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import asdict
from types import TracebackType

from ..errors import UserError
from ..processes import python_command, python_environment
from .baselines import RIVALS
from .report import Report, Spec, report_of

# Maximum characters shown of the last line.
LAST = 200


def _named(status: int) -> str:
    """Return the cause of a process's exit: its status, or the signal that killed it."""
    if status >= 0:
        return f"it ended with status {status}"
    name = {known.value: known.name for known in signal.Signals}.get(-status, f"signal {-status}")
    memory = ", as a system without free memory does; give it a smaller model or batch"
    return f"it was killed by {name}{memory if name == 'SIGKILL' else ''}"


class Worker:
    """Process of a backend's worker module; a context manager that ends it."""

    def __init__(self, backend: str) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 closed at exit
        self.process = subprocess.Popen(
            python_command(RIVALS[backend].worker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            # No downloads and no telemetry.
            env=python_environment(HF_HUB_OFFLINE="1"),
        )

    def ask(self, spec: Spec) -> Report:
        """Run a spec in the process and return its report.

        Raises:
            UserError: the run failed; the message says why.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(asdict(spec)), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            reason = " ".join(answer["error"].split())
            raise UserError(f"bench: the run of {spec.side} on {spec.data} failed ({reason})")
        return report_of(answer)

    def log(self) -> list[str]:
        """Return the lines that the process has written to standard error."""
        # Read by descriptor: the process shares the position of this file.
        size = os.fstat(self.errors.fileno()).st_size
        return os.pread(self.errors.fileno(), size, 0).decode(errors="replace").strip().splitlines()

    def _last_words(self) -> str:
        status, lines = self.process.wait(), self.log()
        # An error message may continue over several lines.
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        if status >= 0 and raised:
            return raised[-1]
        # The last line may be part of a progress bar, which does not explain the exit.
        return _named(status) + (f"; its last line: {lines[-1][-LAST:]}" if status > 0 and lines else "")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
        self.process.communicate()
        self.errors.close()


def ask_new(backend: str, spec: Spec) -> Report:
    """Run a spec in a new process that ends with it, so that no side inherits another's memory."""
    with Worker(backend) as worker:
        return worker.ask(spec)
