"""PEFT subprocess client: transformers and PEFT run in a subprocess, since torch is large and may crash."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ...processes import ask_module, exit_cause, last_lines, python_environment

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
    env = python_environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        try:
            return ask_module("mlx_lora.export.peft.worker", request, Path(folder), seconds=seconds, env=env)
        except subprocess.TimeoutExpired:
            raise PeftFailed(f"no answer in {seconds:.0f} seconds") from None
        except subprocess.CalledProcessError as error:
            said = last_lines(error.stderr) if error.returncode > 0 else []
            raise PeftFailed(said[0] if said else exit_cause(error.returncode)) from None
