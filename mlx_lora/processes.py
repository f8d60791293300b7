"""Python subprocesses: they find the packages that this process finds, and nothing in the working directory."""

from __future__ import annotations

import os
import sys
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
