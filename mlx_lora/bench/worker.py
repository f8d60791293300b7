"""A side's own process, which answers one spec after another."""

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

# Characters of a last line that are shown.
LAST = 200


def _named(status: int) -> str:
    """Return the name of a process's end: its exit status, or the signal that killed it."""
    if status >= 0:
        return f"it ended with status {status}"
    name = {known.value: known.name for known in signal.Signals}.get(-status, f"signal {-status}")
    memory = ", as a system without free memory does; give it a smaller model or batch"
    return f"it was killed by {name}{memory if name == 'SIGKILL' else ''}"


class Worker:
    """A process of a backend's worker module; a context manager that ends it."""

    def __init__(self, backend: str) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 closed at exit
        self.process = subprocess.Popen(
            python_command(RIVALS[backend].worker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            # Nothing has to be fetched, and nobody told.
            env=python_environment(HF_HUB_OFFLINE="1"),
        )

    def ask(self, spec: Spec) -> Report:
        """Let it do a spec and wait.

        Raises:
            UserError: it failed; says why.
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
        """The lines it has written to standard error."""
        # By its descriptor: the process writes where this file's own position is.
        size = os.fstat(self.errors.fileno()).st_size
        return os.pread(self.errors.fileno(), size, 0).decode(errors="replace").strip().splitlines()

    def _last_words(self) -> str:
        status, lines = self.process.wait(), self.log()
        # What an error says may go on for several lines.
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        if status >= 0 and raised:
            return raised[-1]
        # The last line may be a scrap of a progress bar, which says nothing of the end.
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
    """``Worker.ask`` of a process that ends with it, so that no side finds another's memory."""
    with Worker(backend) as worker:
        return worker.ask(spec)
