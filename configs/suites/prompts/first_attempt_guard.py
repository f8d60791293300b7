"""Guard of the suite first_attempt: it runs a case's test on a candidate in Python and exits with 0 if the test passes.

Usage: first_attempt_guard.py CANDIDATE < CASE (JSON with metadata.test). Only the standard library is used.

A candidate is untrusted text. It may import only modules that reach neither files, nor processes, nor the network, and
its names and attributes are checked before anything runs; then it runs in a process of its own with limits on time,
memory and files, an empty environment and an empty folder. This keeps accidents away. It is no sandbox against an
attacker: judge models that you do not trust in a container.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS = 5
BYTES = 512 * 1024 * 1024
# What a test may print at most before the process is given up: a candidate prints nothing.
MOST_OUTPUT = 1_000_000
MODULES = {
    "abc", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "heapq", "itertools", "json", "math", "operator", "re", "statistics", "string", "textwrap", "typing",
    "unicodedata", "__future__",
}  # fmt: skip
FORBIDDEN = {
    "breakpoint", "builtins", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals", "help", "input",
    "locals", "memoryview", "open", "quit", "setattr", "vars",
    # Attributes that lead from an allowed module, a function or a generator to the interpreter.
    "sys", "os", "attrgetter", "methodcaller", "codecs", "gi_frame", "cr_frame", "ag_frame", "f_back", "f_globals",
    "f_builtins", "f_locals", "tb_frame", "tb_next", "format_map",
}  # fmt: skip
DUNDERS = {
    "__init__", "__repr__", "__str__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__",
    "__len__", "__iter__", "__next__", "__contains__", "__getitem__", "__setitem__", "__delitem__", "__enter__",
    "__exit__", "__add__", "__sub__", "__mul__", "__bool__", "__call__", "__name__", "__post_init__", "__slots__",
}  # fmt: skip
_FENCE = re.compile(r"^ {0,3}```[ \t]*(\w*)[^\n]*\n(.*?)^ {0,3}```[ \t]*$", re.M | re.S)
_RUN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, ({bytes}, {bytes}))
work, done = sys.stdin.read(), sys.stdout.write
code, test = __import__("json").loads(work)
space = {{"__name__": "candidate"}}
exec(compile(code, "candidate", "exec"), space)
exec(compile(test, "test", "exec"), space)
done({word!r})
"""


def main(arguments: list[str]) -> int:
    """Judge the candidate of the first argument; return 0 if it passes, 1 if not, 2 if it could not be judged."""
    try:
        test = test_of(json.load(sys.stdin))
        candidate = Path(arguments[0]).read_text(encoding="utf-8")
    except (IndexError, OSError, ValueError) as error:
        print(f"the guard needs a candidate file, and on stdin a case with metadata.test: {error}", file=sys.stderr)
        return 2
    fault = judge(candidate, test)
    if fault:
        print(fault)
    return 1 if fault else 0


def test_of(case: Any) -> str:
    """Return the test of a case; ValueError if it has none."""
    held = (case.get("metadata") or case.get("meta")) if isinstance(case, dict) else None
    test = held.get("test") if isinstance(held, dict) else None
    if not isinstance(test, str) or not test.strip():
        raise ValueError("the case has no metadata.test")
    return test


def judge(candidate: str, test: str) -> str:
    """Return why a candidate fails, "" if it passes."""
    code = code_of(candidate)
    fault = fault_of(code)
    return fault or run(code, test)


def code_of(answer: str) -> str:
    """Return the Python blocks of an answer, or all of it where it has no fenced block."""
    blocks = _FENCE.findall(answer)
    named = [content for name, content in blocks if name.lower() in ("python", "py", "python3")]
    return "\n".join(named or [content for name, content in blocks if not name]) if blocks else answer


def fault_of(code: str) -> str:
    """Return what a candidate may not use or why it is not Python, "" if nothing is wrong."""
    if not code.strip():
        return "there is no Python code"
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"this is not Python: {error}"
    for node in ast.walk(tree):
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names if alias.name.split(".")[0] not in MODULES]
        elif isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").split(".")[0] not in MODULES:
                used = [node.module or "."]
            used += [alias.name for alias in node.names if is_forbidden(alias.name)]
        elif isinstance(node, ast.Name) and is_forbidden(node.id):
            used = [node.id]
        elif isinstance(node, ast.Attribute) and (is_forbidden(node.attr) or node.attr == "format"):
            # A format string can walk along attributes, which no check of names sees; f-strings can not.
            used = [] if node.attr == "format" and isinstance(node.value, ast.Constant) else [node.attr]
        if used:
            return f"line {node.lineno}: {used[0]} is not allowed in a candidate"  # type: ignore[attr-defined]
    return ""


def is_forbidden(name: str) -> bool:
    """Return True for names that lead out of plain computation."""
    return name in FORBIDDEN or (name.startswith("__") and name not in DUNDERS)


def run(code: str, test: str) -> str:
    """Run the test after the code in a process of its own; return the last line of its error, "" if it passed."""
    # A word that the candidate cannot know: one that ends the process early has not passed.
    word = secrets.token_hex(16)
    program = _RUN.format(seconds=SECONDS, bytes=BYTES, word=word)
    with tempfile.TemporaryDirectory(prefix="guard-") as folder, tempfile.TemporaryFile() as output:
        # The output limit holds through a file: its size is checked, not read into memory.
        command = [sys.executable, "-I", "-S", "-B", "-c", program]
        try:
            done = subprocess.run(
                command,
                input=json.dumps([code, test]).encode(),
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                env={},
                timeout=SECONDS + 5,
            )
        except subprocess.TimeoutExpired:
            return f"the test took more than {SECONDS} seconds"
        output.seek(0)
        error = output.read(MOST_OUTPUT).decode("utf-8", "replace").strip()
    if done.returncode == 0 and done.stdout.decode("utf-8", "replace").endswith(word):
        return ""
    return error.splitlines()[-1] if error else f"the test ended early, with status {done.returncode}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
