"""Findings about the machine: chip, memory, disks and GPUs, the Ollama server, and the Hub's token and cache."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..files import nearest_existing
from ..memory import command_output, memory_sizes, text_of

OK, MISSING, NOTE = "ok", "missing", "note"
# With less than this, a download or a run's checkpoints may not fit.
LITTLE_DISK = 10e9
# With less than this, even a base of half a billion parameters may not train.
LITTLE_MEMORY = 2e9
GET_CUDA_BUILD = "install a CUDA build of torch: https://pytorch.org/get-started/locally/"
ON_CPU = "training runs on the CPU, which suits small bases; Apple silicon or an NVIDIA GPU is faster"
GET_OLLAMA = "get it at https://ollama.com/download, then `ollama serve`"
FOR_OLLAMA = "only `export ollama` needs it: "
# A limit on the whole answer, not on each packet: a server that is too slow is useless too.
OLLAMA_SECONDS = 2.0
# Result of a probe of packages.py, {"failed": why} if the probe did not return.
Found = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: the subject.
        state: ``ok``, ``missing`` (absent or broken), or ``note`` (works, but worth knowing).
        found: the result, in words.
        advice: the recommended action; empty where there is none.
    """

    name: str
    state: str
    found: str
    advice: str = ""


def kind_and_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, short enough for a table."""
    kind, said = type(error).__name__, first_line(error)
    return said if said == kind else f"{kind}: {said}"


def gigabytes(size: float) -> str:
    """Return bytes as text, in the unit of all our reports."""
    return f"{size / 1e9:.1f} GB"


def chip() -> str:
    """Return the processor's name, as its maker gives it."""
    name = ""
    if sys.platform == "darwin":
        name = command_output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    else:
        # Arm's processors have no such line.
        found = re.search(r"^model name\s*:\s*(.+)$", text_of(Path("/proc/cpuinfo")), re.M)
        name = found[1].strip() if found else ""
    return name or platform.processor() or platform.machine()


def machine() -> Finding:
    """Report the chip, cores, operating system and Python version."""
    on_mac = sys.platform == "darwin"
    system = f"macOS {platform.mac_ver()[0]}" if on_mac else f"{platform.system()} {platform.release()}"
    found = f"{chip()}, {os.cpu_count()} cores; {system}, {platform.machine()}; Python {platform.python_version()}"
    if (
        on_mac
        and platform.machine() == "x86_64"
        and command_output("sysctl", "-n", "sysctl.proc_translated").strip() == "1"
    ):
        advice = "this Python is an Intel one under Rosetta, for which MLX has no wheel; install an arm64 Python"
        return Finding("machine", MISSING, found, advice)
    return Finding("machine", OK, found)


def memory(recommended: str = "") -> Finding:
    """Report total and available memory.

    Args:
        recommended: a GPU's memory for a model, in words.
    """
    total, available = memory_sizes()
    found = gigabytes(total)
    found += f", {gigabytes(available)} of it available" if available is not None else ""
    found += f"; {recommended}" if recommended else ""
    if available is not None and available < LITTLE_MEMORY:
        return Finding("memory", NOTE, found, "close other programs; `train --dry-run` says what a run needs")
    return Finding("memory", OK, found)


def disk(name: str, place: Path, elsewhere: str) -> Finding:
    """Report the free space where a directory is, or would be.

    Args:
        elsewhere: how to use another place instead.
    """
    there = nearest_existing(place)
    free = shutil.disk_usage(there).free
    found = f"{gigabytes(free)} free at {place}"
    if not os.access(there, os.W_OK):
        return Finding(name, NOTE, f"{found}, which may not be written", f"change its permissions, or {elsewhere}")
    if free < LITTLE_DISK:
        return Finding(name, NOTE, found, f"a model or a run may need more: make room, or {elsewhere}")
    return Finding(name, OK, found)


def gpu(mlx: Found, torch: Found) -> Finding:
    """Report the GPUs that MLX or torch can use, or why there is none."""
    build = torch.get("build")
    usable = [f"{d['name']} ({d['kind']}, through MLX)" for d in [mlx.get("gpu")] if d]
    usable += [f"{d['name']} ({gigabytes(d['memory'])}, {build}, through torch)" for d in torch.get("gpus", [])]
    if usable:
        return Finding("GPU", OK, "; ".join(usable))
    names = nvidia_gpus()
    if not names:
        return Finding("GPU", NOTE, "none that MLX or torch could use", ON_CPU)
    if "build" not in torch:
        advice = "`pip install 'mlx-lora[torch]'`, or repair torch, whose line is below"
    elif build is None:
        advice = GET_CUDA_BUILD
    else:
        advice = f"torch is built for {build}: update the driver, or install torch for the CUDA that nvidia-smi names"
    return Finding("GPU", MISSING, f"{'; '.join(names)}: there, but neither MLX nor torch can use it", advice)


def nvidia_gpus() -> list[str]:
    """Return the NVIDIA GPUs that the driver lists, independently of torch."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    # nvidia-smi prints its errors on standard output too.
    return [] if done.returncode else [line.strip() for line in done.stdout.splitlines() if line.strip()]


def recommended_memory(mlx: Found, torch: Found) -> str:
    """Return the GPUs' memory for a model, in words; empty without a GPU."""
    parts = [f"{d['kind']} recommends {gigabytes(d['memory'])} for a model" for d in [mlx.get("gpu")] if d]
    if sizes := [gigabytes(device["memory"]) for device in torch.get("gpus", [])]:
        parts.append(f"a model has the GPU's own {' + '.join(sizes)} in torch")
    return ", ".join(parts)


def ollama() -> Finding:
    """Report whether an Ollama server answers at the expected address, and its version."""
    from ..engines.ollama import Ollama, server_url

    if importlib.util.find_spec("ollama") is None:
        advice = f"{FOR_OLLAMA}`pip install 'mlx-lora[ollama]'`; Ollama itself is at https://ollama.com/download"
        return Finding("Ollama", MISSING, "the package ollama, which speaks with it, is not installed", advice)
    program = shutil.which("ollama")
    advice = "start it: `ollama serve`" if program else GET_OLLAMA
    advice = FOR_OLLAMA + advice + (", or correct OLLAMA_HOST" if os.environ.get("OLLAMA_HOST") else "")
    try:
        url = server_url()
        version = within(OLLAMA_SECONDS, lambda: Ollama().version())
    except TimeoutError:
        return Finding("Ollama", MISSING, f"{url}: no answer in {OLLAMA_SECONDS:g} seconds", advice)
    except UserError as error:
        # The advice after the semicolon is for the commands that have --host.
        return Finding("Ollama", MISSING, str(error).partition("; ")[0], advice)
    except Exception as error:
        return Finding("Ollama", MISSING, f"asking it failed: {kind_and_line(error)}", advice)
    return Finding("Ollama", OK, f"{version} at {url}")


def within(seconds: float, ask: Callable[[], str]) -> str:
    """Return the result of ``ask``, or raise its error, within a time limit.

    Raises:
        TimeoutError: it takes longer; its thread is abandoned, and does not keep the process alive.
    """
    answers: list[str] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def hub_token() -> Finding:
    """Report whether there is a token for the hub; the token itself is never printed."""
    from huggingface_hub import constants, get_token

    there = get_token() is not None
    found = "there, not checked with the hub" if there else "none"
    if constants.HF_HUB_OFFLINE:
        advice = "unset HF_HUB_OFFLINE to download models"
        return Finding("hub token", NOTE, f"{found}; HF_HUB_OFFLINE is set, so nothing is downloaded", advice)
    if there:
        return Finding("hub token", OK, found)
    return Finding("hub token", MISSING, found, "only gated and private models need it: `hf auth login`")


def hub_cache() -> Finding:
    """Report the cache of downloaded models, and the free space there."""
    from huggingface_hub import constants

    return disk("hub cache", Path(constants.HF_HUB_CACHE).expanduser(), "set HF_HOME to a directory elsewhere")
