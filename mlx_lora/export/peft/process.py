"""transformers and PEFT asked in a process of their own: torch is large, and may die."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ...processes import python_command, python_environment

# The first import after an installation reads gigabytes; a comparison loads the base in float32 besides.
SECONDS = 600


class PeftFailed(Exception):
    """The process gave no answer; the message is the end of what it said."""


def has_torch() -> bool:
    """Return True if transformers' classes can be made in this environment."""
    return importlib.util.find_spec("torch") is not None


def has_peft() -> bool:
    """Return True if PEFT can be run in this environment."""
    return has_torch() and importlib.util.find_spec("peft") is not None


def ask(request: dict[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """The worker's answer to a request, see ``peft_worker``.

    Raises:
        PeftFailed: the process died, or took longer.
    """
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        try:
            done = subprocess.run(
                python_command("mlx_lora.export.peft.worker", str(file)),
                env=python_environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
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
