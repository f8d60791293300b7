"""Scorer that is a user's own Python function, from the file that the suite's line names."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line, guarded, shortened
from ..cases import Case
from .base import Score, Scorer


def python_function(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer of ``FILE.py:function``; the file's place is relative to the suite's.

    The function is called with the case and the answer. It returns a bool, (bool, reason), a mapping with ``passed``
    and perhaps ``reason`` and ``metrics``, or a :class:`Score`. Any exception fails the case.
    """
    if not isinstance(options, str) or not all(options.rpartition(":")) or ".py:" not in options:
        raise UserError(f"{where}: python is written FILE.py:function, not {shortened(options)}")
    file, _, name = options.rpartition(":")
    function = _load((folder / file).expanduser(), name, where)

    def score(case: Case, answer: str) -> Score:
        try:
            return _as_score(function(case, answer), options)
        except (Exception, SystemExit) as error:
            return Score(False, f"{options} raised {type(error).__name__}: {first_line(error)}")

    return score


def _load(file: Path, name: str, where: str) -> Callable[[Case, str], Any]:
    if not file.is_file():
        raise UserError(f"{where}: there is no file {file}; name it relative to the suite's file")
    # A name of its own: two suites may each have a checks.py, and neither must hide a package.
    module_name = f"mlx_lora_user_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    with guarded(f"{where}: {file} cannot be loaded"):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{where}: {file} has no function {shortened(name)}")
    return function


def _as_score(said: Any, name: str) -> Score:
    if isinstance(said, Score):
        said = vars(said)
    if isinstance(said, tuple) and len(said) == 2:
        said = {"passed": said[0], "reason": said[1]}
    elif not isinstance(said, Mapping):
        said = {"passed": said}
    passed = said.get("passed")
    if not isinstance(passed, bool):
        return Score(False, f"{name} returned {shortened(passed)}, and it must return True or False")
    metrics = {str(key): float(value) for key, value in dict(said.get("metrics") or {}).items()}
    if not all(map(math.isfinite, metrics.values())):
        return Score(False, f"{name} returned a metric that is not finite")
    reason = str(said.get("reason") or f"{name} returned False")
    return Score(passed, "" if passed else reason, metrics)
