"""Calls of the systems' schedulers: their answers, and their words when they refuse."""

from __future__ import annotations

import os
import subprocess

from ...errors import UserError, first_line
from ...processes import run_captured

# None of these programs takes seconds.
LIMIT = 60.0
Done = subprocess.CompletedProcess[str]


def answer(*command: str) -> Done | None:
    """Run a program of the system, and return its answer; ``None`` where there is no such program."""
    try:
        return run_captured(command, seconds=LIMIT, env=os.environ)
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return Done(command, 124, "", f"{command[0]} gave no answer in {LIMIT:g} seconds")
    except OSError as error:
        return Done(command, 126, "", f"{command[0]} cannot be run ({error.strerror or error})")


def said(done: Done | None, program: str) -> str:
    """Return the words of a program that refuses."""
    if done is None:
        return f"there is no {program} on this machine"
    return first_line(UserError(done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"))
