"""Run commands on damaged input: ``python -m tests.fuzz --seconds 60 --seed 1 [--inputs N] [--only N]``.

Each input is drawn from the seed and its number, so that ``--only NUMBER`` repeats one that failed. Most commands run
in this process; some run in one of their own, as a user's does, with limits. Reported: a traceback, more than 30 CPU
seconds, more than 2 GB, control characters in what is printed, a sentence that is none, and files that a refused
command left behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from click import ClickException
from click.testing import CliRunner

from mlx_lora.cli.main import cli
from mlx_lora.errors import UserError
from mlx_lora.memory import peak_resident

from .commands import COMMANDS, NOT_FUZZED, SLOW, words_of
from .inputs import make_gguf, make_inputs
from .mutations import mutate

MOST_SECONDS, MOST_BYTES, LONGEST_SENTENCE = 30, 2 * 2**30, 2000
OWN_PROCESS_EVERY = 25
# Those that load a model and write large files come less often.
NAMES = [name for name in sorted(COMMANDS) for _ in range(1 if name in SLOW else 6) if name not in NOT_FUZZED]
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
REPO = Path(__file__).resolve().parent.parent.parent
Listing = dict[str, tuple[int, int]]


class Fuzzer:
    """Good inputs, a copy of them, and what was found so far."""

    def __init__(self, folder: Path, seed: int, begin: str) -> None:
        self.names = [name for name in NAMES if name.startswith(begin)]
        self.seed, self.folder, self.pristine = seed, folder / "inputs", folder / "pristine"
        self.scratch = folder / "scratch"
        self.inputs = make_inputs(self.folder)
        self.inputs |= make_gguf(self.folder, self.inputs)
        shutil.copytree(self.folder, self.pristine, symlinks=True)
        self.ended: collections.Counter[str] = collections.Counter()
        self.seconds: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []

    def run(self, number: int) -> None:
        """Damage one input of a command, or two, run it, and put everything back."""
        draw = random.Random(f"{self.seed}-{number}")
        name = draw.choice(self.names)
        line = draw.choice(COMMANDS[name])
        self.scratch.mkdir()
        used = [key for key in self.inputs if f"{{{key}}}" in line]
        # What a run or a config refers to is read too.
        used += ["base"] * ("run" in used) + ["data", "base"] * ("config" in used)
        before = listing(self.folder)
        changed = [mutate(draw, self.inputs[draw.choice(used)]) for _ in range(draw.choice([1, 1, 1, 2]))]
        words, stdin = words_of(name, line, self.inputs, self.scratch / "out")
        damaged = listing(self.folder)
        started, own = time.monotonic(), number % OWN_PROCESS_EVERY == 0
        faulthandler.dump_traceback_later(8 * MOST_SECONDS, exit=True)
        status, said, found = in_own_process(words, stdin, self.scratch) if own else in_this_process(words, stdin)
        faulthandler.cancel_dump_traceback_later()
        if status == 2:
            left = [*listing(self.scratch), *sorted(set(listing(self.folder)) - set(damaged))]
            # Those of a reader of SQLite, which may not remove them, are left to the next writer.
            left = [file for file in left if not file.endswith((".lock", ".lock_file", ".db-wal", ".db-shm"))]
            # A run that has begun stays, whatever ends it.
            left = [] if "out/run.json" in left else left
            found += [f"left behind: {left[:5]}"] * bool(left)
        found += ["control characters are printed"] * bool(CONTROL.search(said))
        self.ended[str(status)] += 1
        self.seconds[name] += time.monotonic() - started
        if found:
            self.failures.append(f"{number}: {' '.join(words)} [{'; '.join(changed)}]: {'; '.join(found)}")
            print(self.failures[-1], flush=True)
        self.restore(before)

    def restore(self, before: Listing) -> None:
        """Put back each input that a mutation or the command has changed."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        after = listing(self.folder)
        for path in {path for path, _ in set(before.items()) ^ set(after.items())}:
            file, kept = self.folder / path, self.pristine / path
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            else:
                with contextlib.suppress(FileNotFoundError):
                    file.unlink()
            if kept.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(kept, file)


def listing(folder: Path) -> Listing:
    """Return (size, time of change) of everything below a folder but directories that hold something."""
    found: Listing = {}
    for place, folders, files in os.walk(folder):
        empty = [name for name in folders if not os.listdir(os.path.join(place, name))]
        for name in [*files, *empty]:
            status = os.lstat(os.path.join(place, name))
            found[os.path.relpath(os.path.join(place, name), folder)] = (status.st_size, status.st_mtime_ns)
    return found


def in_this_process(words: list[str], stdin: Path | None) -> tuple[int, str, list[str]]:
    """Return (exit status, output, what is wrong) as ``main`` would end."""
    content = b""
    if stdin is not None and stdin.is_file():
        content = stdin.read_bytes()
    started, found = time.process_time(), []
    try:
        done = CliRunner().invoke(cli, words, input=content, standalone_mode=False)
        error, said = done.exception, done.output
        status = done.return_value if isinstance(done.return_value, int) else done.exit_code
    except BaseException as raised:
        if isinstance(raised, KeyboardInterrupt):
            raise
        error, said, status = raised, "", 2
    if isinstance(error, UserError):
        status = 2
        if "\n" in str(error) or len(str(error)) > LONGEST_SENTENCE:
            found.append(f"this is no sentence: {str(error)[:300]!r} ({len(str(error))} characters)")
    elif isinstance(error, (ClickException, OSError)):
        status = 2
    elif isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 1
    elif error is not None:
        last = [
            f"{frame.filename.split('/')[-1]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        found.append(f"traceback: {type(error).__name__}: {str(error)[:200]!r} at {' '.join(last[-6:])}")
    seconds = time.process_time() - started
    found += [f"{seconds:.0f} CPU seconds"] * (seconds > MOST_SECONDS)
    found += too_large(resource.RUSAGE_SELF)
    return status, said, found


def in_own_process(words: list[str], stdin: Path | None, cwd: Path) -> tuple[int, str, list[str]]:
    """Return (exit status, output, what is wrong) of a real process."""
    found = []
    content = stdin.read_bytes() if stdin is not None and stdin.is_file() else b""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mlx_lora", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "200"},
            input=content,
            capture_output=True,
            timeout=8 * MOST_SECONDS,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (2 * MOST_SECONDS, 2 * MOST_SECONDS)),
        )
    except subprocess.TimeoutExpired:
        return 2, "", [f"it did not end in {8 * MOST_SECONDS} seconds"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    errors = done.stderr.decode("utf-8", "replace")
    found += [f"{seconds:.0f} CPU seconds"] * (seconds > MOST_SECONDS)
    found += too_large(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1, 2) or "Traceback" in errors:
        found.append(f"status {done.returncode}: {errors[-600:]!r}")
    if done.returncode == 2 and sum(line.startswith(("mlx-lora: ", "Error: ")) for line in errors.splitlines()) != 1:
        found.append(f"no sentence: {errors[-600:]!r}")
    return done.returncode, done.stdout.decode("utf-8", "replace") + errors, found


_reported: set[int] = set()


def too_large(whose: int) -> list[str]:
    """Return a complaint, once, if this process or its children have taken more than they may."""
    unit = 1 if sys.platform == "darwin" else 1024
    # Not ru_maxrss of this process, which on Linux may be that of the process that started it.
    own = whose == resource.RUSAGE_SELF
    size = peak_resident() if own else resource.getrusage(whose).ru_maxrss * unit
    if size <= MOST_BYTES or whose in _reported:
        return []
    _reported.add(whose)
    return [f"{size / 1e9:.1f} GB of memory"]


def main() -> int:
    """Fuzz for some seconds, or so many inputs, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, help="so many inputs, however long they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, help="number of the first input")
    parser.add_argument("--only", type=int, help="one input again")
    parser.add_argument("--command", default="", help="only commands whose names begin so")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        with contextlib.redirect_stdout(sys.stderr), open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
            fuzzer = Fuzzer(Path(folder).resolve(), options.seed, options.command)
        numbers: Any = [options.only] if options.only else range(options.first, 10**9)
        started = time.monotonic()
        for done, number in enumerate(numbers):
            if done >= options.inputs if options.inputs else time.monotonic() - started > options.seconds:
                break
            fuzzer.run(number)
    slowest = {name: round(seconds) for name, seconds in fuzzer.seconds.most_common(5)}
    result = {
        "seed": options.seed,
        "slowest": slowest,
        "inputs": sum(fuzzer.ended.values()),
        "ended": dict(fuzzer.ended),
    }
    print(json.dumps({**result, "seconds": round(time.monotonic() - started), "failures": len(fuzzer.failures)}))
    return int(bool(fuzzer.failures))


if __name__ == "__main__":
    sys.exit(main())
