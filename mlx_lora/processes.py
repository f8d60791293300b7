"""Subprocesses: Python ones find the packages that this process finds, and nothing in the working directory.

``ask_module`` runs a module that may be large or crash, and ``answer_request`` is that module's entry point: a request
and its answer are JSON files, so that whatever libraries print is in no answer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .memory import command_output, text_of

ANSWER = ".answer"


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


def ask_module(
    module: str,
    request: Mapping[str, Any],
    folder: Path,
    *,
    seconds: float | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a module on a request, and return its answer.

    Args:
        request: JSON content; the module finds its paths from another working directory.
        folder: an empty directory, in which the module runs: ggml loads backends that it finds in the current one.

    Raises:
        subprocess.CalledProcessError: it failed, with its output as text.
        subprocess.TimeoutExpired: it takes longer than ``seconds``.
    """
    file = folder / "request.json"
    file.write_text(json.dumps(request), encoding="utf-8")
    done = run_captured(python_command(module, str(file)), seconds=seconds, cwd=folder, env=env)
    done.check_returncode()
    return json.loads(file.with_suffix(ANSWER).read_text(encoding="utf-8"))


def answer_request(actions: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Answer the request file that the command line names, by its ``action``."""
    file = Path(sys.argv[1])
    request = json.loads(file.read_text(encoding="utf-8"))
    file.with_suffix(ANSWER).write_text(json.dumps(actions[request["action"]](request)), encoding="utf-8")


def exit_cause(status: int) -> str:
    """Return the cause of a process's exit: its status, or the signal that killed it."""
    if status >= 0:
        return f"exit status {status}"
    known = {number.value: number.name for number in signal.Signals}
    return f"killed by {known.get(-status, f'signal {-status}')}"


def last_lines(output: str, count: int = 1) -> list[str]:
    """Return the last lines of a process's output that are not blank."""
    return [line.strip() for line in output.splitlines() if line.strip()][-count:]


def this_owner() -> dict[str, Any]:
    """Return ``{"pid", "started", "boot"}`` of this process, for the record beside a lock that it holds."""
    return {"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds"), "boot": boot_id()}


def recorded_owner(file: Path) -> dict[str, Any] | None:
    """Return the owner that was recorded in a file; None if unknown, or of another boot of the machine."""
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
        return owner if {"pid", "started"} <= set(owner) and owner.get("boot") == boot_id() else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def boot_id() -> str:
    """Return an identifier of this boot of the machine; empty where there is none."""
    if sys.platform == "darwin":
        found = re.search(r"sec = (\d+)", command_output("sysctl", "-n", "kern.boottime"))
        return found[1] if found else ""
    return text_of(Path("/proc/sys/kernel/random/boot_id")).strip()
