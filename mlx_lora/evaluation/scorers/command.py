"""Guards (pass/fail scorers): a Python callable, or a command that judges a candidate file by its exit status."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError

PLACE = "{}"

Guard = Callable[[str], Any] | str | Sequence[str]


@dataclass
class Verdict:
    """Verdict of a guard; ``error`` where there is none (it raised, or timed out), which counts as rejected."""

    passed: bool
    error: str | None = None


def as_guard(guard: Guard, time_limit: float = 60.0, suffix: str = ".txt") -> Callable[[str], Verdict]:
    """Return a function from a candidate to its :class:`Verdict`.

    Args:
        guard: a callable that gives a bool, or an object or a mapping with ``passed``; or a command, as a list or as
            one line of words. It runs without a shell; ``{}`` among its words is replaced by the candidate's file,
            which otherwise comes last. Exit status 0 passes.
        time_limit: seconds a command may take, with all it started.
        suffix: ending of the candidate's file.

    Raises:
        UserError: the command is empty or there is no such program.
    """
    if callable(guard):
        return lambda candidate: _ask(guard, candidate)
    try:
        words = shlex.split(guard) if isinstance(guard, str) else [str(word) for word in guard]
    except ValueError as error:
        raise UserError(f"the guard {guard!r} is no command ({error}); check its quotes") from None
    if not words:
        raise UserError("the guard is empty; give a command, or a function of the candidate")
    program = shutil.which(words[0])
    if program is None:
        raise UserError(f"{words[0]}: there is no such program to guard with; check its name, or install it")
    words = [os.path.abspath(program), *words[1:]]
    words = words if PLACE in words else [*words, PLACE]
    return lambda candidate: _run(words, candidate, time_limit, suffix)


def _ask(guard: Callable[[str], Any], candidate: str) -> Verdict:
    try:
        said = guard(candidate)
    except Exception as error:  # a guard that raises on a candidate has not passed it
        return Verdict(False, f"{type(error).__name__}: {error}")
    passed = said.get("passed") if isinstance(said, Mapping) else getattr(said, "passed", said)
    return Verdict(bool(passed))


def _run(words: Sequence[str], candidate: str, time_limit: float, suffix: str) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="guard-") as directory:
        file = Path(directory, f"candidate{suffix}")
        file.write_text(candidate, encoding="utf-8", errors="replace")
        process = subprocess.Popen(
            [str(file) if word == PLACE else word for word in words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return Verdict(process.wait(time_limit) == 0)
        except subprocess.TimeoutExpired:
            return Verdict(False, f"it took more than {time_limit:g} seconds")
        finally:
            # Kill the whole session: a test runner's children must not outlive the time limit.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
