"""Guards (pass/fail scorers): a Python callable, or a command that judges a candidate file by its exit status."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import UserError, first_line, visible
from ...processes import exit_cause, last_lines
from ..cases import Case
from ..statistics.intervals import expected_retries
from .base import Score, Scorer, read_options

PLACE = "{}"
# Bytes that are kept of what a command prints: its last lines say why it failed.
KEPT = 4096

Guard = Callable[[str], Any] | str | Sequence[str]


@dataclass
class Verdict:
    """Verdict of a guard.

    Attributes:
        error: the reason that there is no verdict (it raised, or timed out), which counts as rejected.
        said: the last line that a command printed, when it rejected.
    """

    passed: bool
    error: str | None = None
    said: str = ""


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
    words = command_words(guard)
    return lambda candidate: run_guard(words, candidate, time_limit, suffix)


def command(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers for which a command exits with status 0.

    Options: ``run`` (one line of words, or a list), ``time_limit`` (60 seconds), ``suffix`` of the answer's file. The
    command runs without a shell, in the folder of the suite's file, with the case as JSON on its standard input.
    """
    kinds = {"run": "texts", "time_limit": "seconds", "suffix": "text"}
    given = read_options(options, where, "command", kinds, main="run")
    if "run" not in given:
        raise UserError(f"{where}: command needs run, the words of a command")
    suffix, limit = given.get("suffix", ".txt"), given.get("time_limit", 60.0)
    if "/" in suffix:
        raise UserError(f"{where}: command: suffix is the ending of a file, as .py, not {suffix!r}")
    try:
        words = command_words(given["run"], folder)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    name = Path(words[0]).name

    def score(case: Case, answer: str) -> Score:
        verdict = run_guard(words, answer, limit, suffix, json.dumps(asdict(case)), folder)
        if verdict.passed:
            return Score(True)
        return Score(False, f"{name}: {verdict.error or verdict.said or 'the command rejects the answer'}")

    return score


def command_words(guard: str | Sequence[str], folder: Path | None = None) -> list[str]:
    """Return the words of a command, the program's absolute path first and the candidate's place among them.

    Args:
        folder: where a program with a relative path is; by default the working directory.

    Raises:
        UserError: there are no words, or no such program.
    """
    try:
        words = shlex.split(guard) if isinstance(guard, str) else [str(word) for word in guard]
    except ValueError as error:
        raise UserError(f"the guard {guard!r} is no command ({error}); check its quotes") from None
    if not words:
        raise UserError("the guard is empty; give a command, or a function of the candidate")
    name = str(folder / words[0]) if folder is not None and "/" in words[0] else words[0]
    program = shutil.which(name)
    if program is None:
        raise UserError(f"{words[0]}: there is no such program to guard with; check its name, or install it")
    words = [os.path.abspath(program), *words[1:]]
    return words if PLACE in words else [*words, PLACE]


def _ask(guard: Callable[[str], Any], candidate: str) -> Verdict:
    try:
        said = guard(candidate)
    except Exception as error:  # a guard that raises on a candidate has not passed it
        return Verdict(False, f"{type(error).__name__}: {error}")
    passed = said.get("passed") if isinstance(said, Mapping) else getattr(said, "passed", said)
    return Verdict(bool(passed))


def run_guard(
    words: Sequence[str], candidate: str, time_limit: float, suffix: str, given: str = "", folder: Path | None = None
) -> Verdict:
    """Run a command on a candidate's file; it is killed, with all it started, after the time limit.

    Args:
        given: what it reads on standard input.
        folder: its working directory.
    """
    with tempfile.TemporaryDirectory(prefix="guard-") as directory:
        file, standard_input = Path(directory, f"candidate{suffix}"), Path(directory, "input.json")
        file.write_text(candidate, encoding="utf-8", errors="replace")
        standard_input.write_text(given, encoding="utf-8", errors="replace")
        with standard_input.open("rb") as source:
            try:
                process = subprocess.Popen(
                    [str(file) if word == PLACE else word for word in words],
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as error:  # a script without its first line, say
                return Verdict(False, f"it cannot be run ({first_line(error)})")
        kept = _keep_end(process.stdout)
        try:
            status = process.wait(time_limit)
        except subprocess.TimeoutExpired:
            return Verdict(False, f"it took more than {time_limit:g} seconds")
        finally:
            # Kill the whole session: a test runner's children must not outlive the time limit.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Verdict(True) if status == 0 else Verdict(False, None, _said(status, kept()))


def _keep_end(pipe: IO[bytes] | None) -> Callable[[], bytes]:
    """Read a pipe to its end in a thread, so that its writer never waits; return a function that gives its last bytes.

    Memory stays the same however much is printed.
    """
    assert pipe is not None
    end = bytearray()

    def read() -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 65_536):
                end.extend(chunk)
                del end[:-KEPT]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def kept() -> bytes:
        # A process that has left the session may hold the pipe open; what it prints is not waited for.
        reader.join(1.0)
        return bytes(end)

    return kept


def _said(status: int, printed: bytes) -> str:
    how, lines = exit_cause(status), last_lines(printed.decode("utf-8", "replace"))
    return f"{how}: {visible(lines[0])[:200]}" if lines else how


def summarize(cases: Sequence[Case], answers: Sequence[str], scores: Sequence[Score]) -> dict[str, Any]:
    """Return E[retries], the mean of attempts before one passes, ``None`` where none does."""
    return {"expected_retries": expected_retries(sum(score.passed for score in scores), len(scores))}
