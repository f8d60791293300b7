"""llama.cpp client: evaluation and quantization in a subprocess, through the Python binding that is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...processes import ask_module, exit_cause, last_lines, python_environment, run_captured

# The first installed binding is used; quantization tries the next one if it fails.
BINDINGS = {"llama-cpp-python": "llama_cpp", "cyllama": "cyllama"}
HOW_TO_GET = (
    "install it with `pip install 'mlx-lora[gguf]'` (wheels for Linux x86-64 and macOS arm64; "
    "elsewhere `pip install gguf llama-cpp-python` compiles it)"
)
QUANTIZE_PROGRAM = "llama-quantize"
LOG_LINES = 3
FILES = ("model", "lora")  # keys of a request that are paths


class LlamaCppFailed(Exception):
    """Failure of llama.cpp: it rejected the file or crashed; the message is the end of its output."""


@dataclass
class Request:
    """Evaluation request for a model file.

    Attributes:
        texts: texts to tokenize, special tokens parsed as such.
        prompts: token ids of each prompt.
        positions: of each prompt, the tokens after which logits are returned.
        greedy: token ids of the prompt for greedy decoding; nothing is generated if it is empty.
        lora: a GGUF LoRA adapter to apply to the model.
    """

    model: str
    texts: list[str] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)
    greedy: list[int] = field(default_factory=list)
    greedy_tokens: int = 32
    lora: str | None = None


@dataclass
class Answer:
    """llama.cpp's answer to a request.

    Attributes:
        vocabulary: vocabulary size of the model.
        tokens: token ids of each text.
        ends: the end-of-generation tokens.
        greedy: token ids of the greedy answer.
        folder: directory of the logits, one file per prompt, until the context exits.
    """

    vocabulary: int
    tokens: list[list[int]]
    ends: list[int]
    greedy: list[int]
    folder: Path

    def logits(self, prompt: int) -> np.ndarray:
        """Return the logits of one prompt, float32 [positions, vocabulary]."""
        return np.load(self.folder / f"logits-{prompt}.npy")


def bindings() -> list[str]:
    """Return the installed bindings, the preferred one first."""
    return [name for name, module in BINDINGS.items() if importlib.util.find_spec(module) is not None]


def check_available() -> None:
    """Raise UserError, with how to install them, if the package gguf or a llama.cpp binding is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"GGUF files need the package gguf; {HOW_TO_GET}")
    if not bindings():
        raise UserError(f"what is exported is checked in llama.cpp, and none is installed; {HOW_TO_GET}")


@contextmanager
def evaluated(request: Request) -> Iterator[Answer]:
    """Yield llama.cpp's answer, computed in float32 wherever the file's types allow, KV cache included.

    Raises:
        LlamaCppFailed: llama.cpp rejected the file, or crashed.
        UserError: no llama.cpp is installed.
    """
    check_available()
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        files = {name: file and str(Path(file).absolute()) for name, file in vars(request).items() if name in FILES}
        content = {"action": "evaluate", "binding": bindings()[0], "out": folder, **asdict(request), **files}
        found = _work(content, Path(folder))
        yield Answer(**found, folder=Path(folder))


def quantize(file: Path, out: Path, number: int) -> str:
    """Quantize a GGUF file on all cores; return the name of the binding that did it.

    Args:
        number: file type, a value of ``gguf.LlamaFileType``.

    Raises:
        LlamaCppFailed: every installed binding refused, or crashed; nothing is left at ``out``.
        UserError: no llama.cpp is installed.
    """
    program = shutil.which(QUANTIZE_PROGRAM)
    providers = [*bindings(), *([QUANTIZE_PROGRAM] if program else [])]
    if not providers:
        raise UserError(f"quantizing needs llama.cpp, and none is installed; {HOW_TO_GET}")
    failures = []
    for provider in providers:
        try:
            _quantize_by(provider, program, file, out, number)
        except LlamaCppFailed as error:
            # An older binding may not know the type.
            out.unlink(missing_ok=True)
            failures.append(f"{provider} {error}")
        else:
            return provider
    raise LlamaCppFailed("; ".join(failures))


def _quantize_by(provider: str, program: str | None, file: Path, out: Path, number: int) -> None:
    if provider == QUANTIZE_PROGRAM:
        with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
            command = [str(program), str(file.absolute()), str(out.absolute()), str(number)]
            done = run_captured(command, cwd=Path(folder), env=worker_environment())
        if done.returncode:
            raise failure(done.returncode, done.stdout + done.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        paths = {"model": str(file.absolute()), "out": str(out.absolute())}
        _work({"action": "quantize", "binding": provider, "type": number, **paths}, Path(folder))


def _work(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return ask_module("mlx_lora.engines.llamacpp.worker", content, folder, env=worker_environment())
    except subprocess.CalledProcessError as error:
        raise failure(error.returncode, error.stdout + error.stderr) from error


def worker_environment() -> dict[str, str]:
    """Return the environment of a worker: a crash prints its reason and no debugger's backtrace."""
    return python_environment(GGML_NO_BACKTRACE="1")


def failure(status: int, output: str) -> LlamaCppFailed:
    """Return the error of a worker that ended, with the end of its output."""
    said = [line.strip() for line in output.splitlines() if "GGML_ASSERT" in line][:1] or last_lines(output, LOG_LINES)
    died = exit_cause(status) if status < 0 else "refused"
    return LlamaCppFailed(f"{died}: {' / '.join(said)}")
