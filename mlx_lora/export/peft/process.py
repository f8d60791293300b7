"""PEFT subprocess client: transformers and PEFT run in a subprocess, since torch is large and may crash."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ...processes import python_command, python_environment, run_captured

# The first import after an installation reads gigabytes; a comparison loads the base in float32 as well.
SECONDS = 600


class PeftFailed(Exception):
    """Failure of the subprocess; the message is the end of its output."""


def has_torch() -> bool:
    """Return True if transformers' classes can be instantiated in this environment."""
    return importlib.util.find_spec("torch") is not None


def has_peft() -> bool:
    """Return True if PEFT can be run in this environment."""
    return has_torch() and importlib.util.find_spec("peft") is not None


def ask(request: dict[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """Send a request to the worker and return its answer, see ``peft.worker``.

    Raises:
        PeftFailed: the process crashed, or timed out.
    """
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        try:
            done = run_captured(
                python_command("mlx_lora.export.peft.worker", str(file)),
                seconds=seconds,
                env=python_environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"),
            )
        except subprocess.TimeoutExpired:
            raise PeftFailed(f"no answer in {seconds:.0f} seconds") from None
        if done.returncode < 0:
            raise PeftFailed(f"killed by {signal.Signals(-done.returncode).name}")
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise PeftFailed(said[-1] if said else f"exit status {done.returncode}")
        answer: dict[str, Any] = json.loads(file.with_suffix(".answer").read_text(encoding="utf-8"))
        return answer
