"""Worker process of one side, which answers one spec after another, and the baseline of each backend."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from ..errors import UserError
from ..processes import exit_cause, python_command, python_environment
from .cases import Row, Spec, make_rows
from .report import Report, Step

# Maximum characters shown of the last line.
LAST = 200
OUT_OF_MEMORY = ", as a system without free memory does; give it a smaller model or batch"


@dataclass(frozen=True)
class Rival:
    """Baseline: another trainer on the same backend.

    Attributes:
        name: name in tables and pictures.
        worker: module that runs either side in a separate process.
        versions: distributions whose versions belong to a result, by display name.
        modules: modules that must be importable.
        needs: error sentence if one is not.
    """

    name: str
    worker: str
    versions: dict[str, str] = field(hash=False)
    modules: tuple[str, ...]
    needs: str

    def check(self) -> None:
        """Raise UserError with ``needs`` if a module is missing."""
        if any(importlib.util.find_spec(module) is None for module in self.modules):
            raise UserError(self.needs)


RIVALS = {
    "mlx": Rival(
        name="mlx_lm.lora",
        worker="mlx_lora.bench.mlx_worker",
        versions={"mlx": "mlx", "mlx_lm": "mlx-lm"},
        modules=("mlx", "mlx_lm"),
        needs="bench: MLX is not installed, which is measured against mlx_lm.lora; use --backend torch",
    ),
    "torch": Rival(
        name="TRL's SFTTrainer",
        worker="mlx_lora.bench.torch_worker",
        versions={name: name for name in ("torch", "transformers", "peft", "trl", "accelerate", "datasets")},
        modules=("torch", "transformers", "peft", "accelerate", "trl", "datasets"),
        needs="bench: TRL, which the torch backend is measured against, is not installed; "
        "pip install 'mlx-lora[bench]'",
    ),
}


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
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            reason = " ".join(answer["error"].split())
            raise UserError(f"bench: the run of {spec.side} on {spec.data} failed ({reason})")
        return Report(**{**answer, "steps": [Step(**step) for step in answer["steps"]]})

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
        said = OUT_OF_MEMORY if status == -signal.SIGKILL else ""
        if status > 0 and lines:
            said = f"; its last line: {lines[-1][-LAST:]}"
        return exit_cause(status) + said

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


def serve(sides: dict[str, Callable[[Spec, list[Row]], Report]]) -> None:
    """Serve specs as a worker's main function: one per line on standard input, one report per line on standard output.

    A failure is answered with ``{"error": ...}``. Both are JSON; the output of a trainer goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        spec = Spec(**json.loads(line))
        rows = make_rows(spec.data, spec.rows, spec.config["vocab_size"], spec.seed)
        try:
            answer = asdict(sides[spec.side](spec, rows))
        except Exception as error:  # any error of a library: the comparison reports it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
