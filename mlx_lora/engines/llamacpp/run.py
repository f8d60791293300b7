"""Ask llama.cpp something, through whatever of it is installed, and survive its answer."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...processes import python_command, python_environment

# The first that is installed is used; to quantize, the next where one fails.
BINDINGS = {"llama-cpp-python": "llama_cpp", "cyllama": "cyllama"}
HOW_TO_GET = (
    "install it with `pip install 'mlx-lora[gguf]'` (wheels for Linux x86-64 and macOS arm64; "
    "elsewhere `pip install gguf llama-cpp-python` compiles it)"
)
QUANTIZE_PROGRAM = "llama-quantize"
LOG_LINES = 3
FILES = ("model", "lora")  # of a request


class LlamaCppFailed(Exception):
    """llama.cpp refused the file, or died on it; the message is the end of what it said."""


@dataclass
class Request:
    """What llama.cpp is asked of a model file.

    Attributes:
        texts: to be turned into token ids, special tokens read as such.
        prompts: token ids to read.
        positions: of each prompt, the tokens after which logits are wanted.
        greedy: the prompt of the greedy answer; none is made if it is empty.
        lora: a GGUF LoRA adapter to put on the model.
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
    """What it said.

    Attributes:
        vocabulary: how many tokens the model has.
        tokens: ids of each text.
        ends: the tokens that end an answer.
        greedy: ids of the greedy answer.
        folder: where the logits are, one prompt a file, while the context lasts.
    """

    vocabulary: int
    tokens: list[list[int]]
    ends: list[int]
    greedy: list[int]
    folder: Path

    def logits(self, prompt: int) -> np.ndarray:
        """float32 [positions, vocabulary] of one prompt."""
        return np.load(self.folder / f"logits-{prompt}.npy")


def bindings() -> list[str]:
    """The bindings that are installed, the first choice first."""
    return [name for name, module in BINDINGS.items() if importlib.util.find_spec(module) is not None]


def check_available() -> None:
    """Raises UserError, which says how to get it, if nothing here can write GGUF and run it."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"GGUF files need the package gguf; {HOW_TO_GET}")
    if not bindings():
        raise UserError(f"what is exported is checked in llama.cpp, and none is installed; {HOW_TO_GET}")


@contextmanager
def evaluated(request: Request) -> Iterator[Answer]:
    """llama.cpp's answer, computed in float32 wherever the file's types allow, its KV cache too.

    Raises:
        LlamaCppFailed: it refused the file, or died.
        UserError: no llama.cpp is installed.
    """
    check_available()
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        # The process is in another directory.
        files = {name: file and str(Path(file).absolute()) for name, file in vars(request).items() if name in FILES}
        content = {"action": "evaluate", "binding": bindings()[0], "out": folder, **asdict(request), **files}
        found = _work(content, Path(folder))
        yield Answer(**found, folder=Path(folder))


def quantize(file: Path, out: Path, number: int) -> str:
    """Quantize a GGUF file with all cores; returns which llama.cpp did it.

    Args:
        number: llama.cpp's number of the file type (``gguf.LlamaFileType``).

    Raises:
        LlamaCppFailed: all that are there refused, or died; nothing is left at ``out``.
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
            # An older one may not know the type.
            out.unlink(missing_ok=True)
            failures.append(f"{provider} {error}")
        else:
            return provider
    raise LlamaCppFailed("; ".join(failures))


def _quantize_by(provider: str, program: str | None, file: Path, out: Path, number: int) -> None:
    if provider == QUANTIZE_PROGRAM:
        with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
            _run([str(program), str(file.absolute()), str(out.absolute()), str(number)], Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        paths = {"model": str(file.absolute()), "out": str(out.absolute())}
        _work({"action": "quantize", "binding": provider, "type": number, **paths}, Path(folder))


def _work(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    request = folder / "request.json"
    request.write_text(json.dumps(content), encoding="utf-8")
    _run(python_command("mlx_lora.engines.llamacpp.worker", str(request)), folder)
    return json.loads(request.with_suffix(".answer").read_text(encoding="utf-8"))


def _run(command: Sequence[str], folder: Path) -> None:
    # In a directory of its own: ggml loads backends that it finds in the working directory.
    done = subprocess.run(
        command,
        cwd=folder,
        env=python_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        # A debugger's account of it may follow.
        said = [line for line in lines if "GGML_ASSERT" in line][:1] or lines[-LOG_LINES:]
        died = f"died of {signal.Signals(-done.returncode).name}" if done.returncode < 0 else "refused"
        raise LlamaCppFailed(f"{died}: {' / '.join(said)}")
