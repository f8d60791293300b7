"""Probes: libraries imported in processes of their own, since a broken one may raise, crash or hang."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

from ..processes import python_command, python_environment

PROBES = ("mlx", "torch", "backend", "llamacpp")
# The first import after an installation reads gigabytes.
SECONDS = 120


def ask(name: str) -> dict[str, Any]:
    """Return the result of the named probe; ``{"failed": why}`` where a library killed it or took too long."""
    try:
        done = subprocess.run(
            python_command("mlx_lora.doctor.probe", name),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer in {SECONDS} seconds"}
    if done.returncode:
        return {"failed": _last_words(done)}
    # Libraries print too while they are imported.
    return json.loads(done.stdout.splitlines()[-1])


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
    if done.returncode > 0:
        return said[0] if said else f"exit status {done.returncode}"
    return ": ".join([f"it died of {signal.Signals(-done.returncode).name}", *said])
