"""Guard of the suite first_attempt: it runs a case's test on a candidate in Python and exits with 0 if the test passes.

Usage: first_attempt_guard.py CANDIDATE < CASE (JSON with metadata.test). Only the standard library is used.

A candidate is untrusted text. It may import only modules that reach neither files, nor processes, nor the network, and
its names and attributes are checked before anything runs; then it runs in a process of its own with limits on time,
memory and files, an empty environment and an empty folder. This keeps accidents away. It is no sandbox against an
attacker: judge models that you do not trust in a container.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

SECONDS = 5
BYTES = 512 * 1024 * 1024
MODULES = {
    "abc", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "heapq", "itertools", "json", "math", "operator", "re", "statistics", "string", "textwrap", "typing",
    "unicodedata", "__future__",
}  # fmt: skip
FORBIDDEN = {
    "breakpoint", "builtins", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals", "help", "input",
    "locals", "memoryview", "open", "quit", "setattr", "vars",
    # These evaluate texts or walk along attributes, which no check of names sees.
    "attrgetter", "methodcaller", "format_map", "Formatter", "get_type_hints", "ForwardRef", "evaluate_forward_ref",
    "singledispatch", "singledispatchmethod",
    # Attributes that lead from a generator or an error to the interpreter's frames.
    "gi_frame", "cr_frame", "ag_frame", "f_back", "f_globals", "f_builtins", "f_locals", "tb_frame", "tb_next",
}  # fmt: skip
DUNDERS = {
    "__init__", "__repr__", "__str__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__",
    "__len__", "__iter__", "__next__", "__contains__", "__getitem__", "__setitem__", "__delitem__", "__enter__",
    "__exit__", "__add__", "__sub__", "__mul__", "__bool__", "__call__", "__name__", "__post_init__", "__slots__",
}  # fmt: skip
_FENCE = re.compile(r"^ {0,3}```[ \t]*(\w*)[^\n]*\n(.*?)^ {0,3}```[ \t]*$", re.M | re.S)
_RUN = f"""
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, ({BYTES}, {BYTES}))
def judge():
    code, test, word = json.load(sys.stdin)
    done, sys.stdout = sys.stdout, open(os.devnull, "w")
    space = {{"__name__": "candidate"}}
    try:
        exec(compile(code, "candidate", "exec"), space)
        exec(compile(test, "test", "exec"), space)
    except BaseException as error:
        word = type(error).__name__ + ": " + str(error)[:300]
    done.write(word)
    done.flush()
judge()
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
    modules = names_of_modules()
    for node in ast.walk(tree):
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names if alias.name.split(".")[0] not in MODULES]
        elif isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").split(".")[0] not in MODULES:
                used = [node.module or "."]
            used += [a.name for a in node.names if a.name.startswith("_") or a.name in FORBIDDEN | modules]
        elif isinstance(node, ast.Name) and is_forbidden(node.id):
            used = [node.id]
        elif isinstance(node, ast.Attribute):
            # An object's own attributes may be called as it likes; those of others may be the interpreter's.
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "other")
            private = node.attr.startswith("_") and node.attr not in DUNDERS
            formats = node.attr == "format" and not isinstance(node.value, ast.Constant)
            outward = not own and (private or formats or node.attr in modules)
            used = [node.attr] if outward or is_forbidden(node.attr) else []
        if used:
            return f"line {node.lineno}: {used[0]} is not allowed in a candidate"  # type: ignore[attr-defined]
    return ""


def is_forbidden(name: str) -> bool:
    """Return True for names that lead out of plain computation."""
    return name in FORBIDDEN or (name.startswith("__") and name not in DUNDERS)


def names_of_modules() -> set[str]:
    """Return the names under which the allowed modules hold other modules: ``re.enum.sys`` is sys."""
    held = [vars(importlib.import_module(name)) for name in sorted(MODULES)]
    return {name for space in held for name, value in space.items() if isinstance(value, ModuleType)} - MODULES


def run(code: str, test: str) -> str:
    """Run the test after the code in a process of its own; return the error, "" if it passed."""
    # A word that the candidate cannot know: one that ends the process early has not passed.
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", _RUN],
                input=json.dumps([code, test, word]).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=SECONDS + 5,
            )
        except subprocess.TimeoutExpired:
            return f"the test took more than {SECONDS} seconds"
    said = done.stdout.decode("utf-8", "replace")
    return "" if said == word else said or f"the test ended early, with status {done.returncode}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
