"""Subprocesses: Python ones find the packages that this process finds, and nothing in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module; ``-P`` keeps the working directory off its search path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment(**changes: str) -> dict[str, str]:
    """Return the environment of such a process: this one's packages, wherever it is started."""
    # Last, for a checkout that is not installed.
    own = str(Path(__file__).resolve().parent.parent)
    places = dict.fromkeys([*(os.path.abspath(place) for place in sys.path if place), own])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), **changes}


def run_captured(
    command: Sequence[str],
    *,
    seconds: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing on its standard input, and return it with its output as text.

    Args:
        seconds: time limit.
        env: the environment, by default that of ``python_environment``.

    Raises:
        subprocess.TimeoutExpired: it takes longer.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env=python_environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
    )
