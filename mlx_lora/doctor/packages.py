"""Package findings: MLX, torch and llama.cpp, whether they work, and the devices they compute on.

Each function takes its probe's result, ``{"failed": why}`` if the probe did not return.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from .finding import MISSING, NOTE, OK, Finding, gigabytes

Found = dict[str, Any]
MLX_PACKAGES = ("mlx", "mlx-lm")
# Packages that the torch backend can do without.
OPTIONAL = "bitsandbytes"
GET_MLX = "`pip install mlx-lora` brings it on Apple silicon and Linux; elsewhere use `--backend torch`"
GET_TORCH = "only the torch backend (CUDA) needs it: `pip install 'mlx-lora[torch]'`"
GET_BLAS = (
    "products are some 15 times faster with it: `sudo apt install libopenblas0-pthread` "
    "(Debian, Ubuntu; elsewhere the package is called openblas)"
)
GET_CUDA_BUILD = "install a CUDA build of torch: https://pytorch.org/get-started/locally/"
ON_CPU = "training runs on the CPU, which suits small bases; Apple silicon or an NVIDIA GPU is faster"


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


def mlx(found: Found, torch: Found) -> Finding:
    """Report MLX and mlx-lm, and the device that MLX computes on."""
    fault = faults("MLX", found, MLX_PACKAGES, GET_MLX)
    if fault is None:
        device = found["gpu"]["kind"] if found["gpu"] else "the CPU"
        return Finding("MLX", OK, f"{versions(found, MLX_PACKAGES)}; computes on {device}")
    torch_is_broken = "failed" in torch or "torch" in torch["broken"]
    if torch_is_broken and ("failed" in found or list(found["broken"]) == ["mlx-lm"]):
        # Transformers, which mlx-lm imports, imports whatever torch is installed.
        return Finding("MLX", MISSING, fault.found, "mlx-lm imports torch, which is broken here: repair that first")
    return fault


def blas(found: Found) -> Finding:
    """Report whether MLX multiplies with OpenBLAS on Linux."""
    if sys.platform != "linux":
        return Finding("BLAS", OK, "the system's own, which is fast")
    from ..backends.mlx import SLOW_BLAS

    if SLOW_BLAS is None:
        return Finding("BLAS", OK, "OpenBLAS, which MLX multiplies with")
    if found.get("gpu"):
        return Finding("BLAS", OK, "no OpenBLAS, but MLX computes on the GPU")
    return Finding("BLAS", MISSING, "no OpenBLAS, so MLX multiplies with the slow BLAS in its wheel", GET_BLAS)


def torch(found: Found) -> Finding:
    """Report torch, its build, and the other packages that the torch backend needs."""
    packages = torch_packages(found)
    if fault := faults("torch", found, packages, GET_TORCH):
        return fault
    build = f"built for {found['build'] or 'the CPU'}"
    without = "" if OPTIONAL in packages else f"; no {OPTIONAL}, which only 4-bit bases and adamw8bit need"
    return Finding("torch", OK, f"{versions(found, packages)}; {build}{without}")


def torch_packages(found: Found) -> list[str]:
    """Return the packages that must work for the torch backend: the required ones, and optional ones if installed.

    PEFT, which imports the others, is the last, so that the first that is broken is the one to repair.
    """
    from ..backends.registry import TORCH_PACKAGES

    # PEFT imports an installed bitsandbytes whatever the base.
    optional = [OPTIONAL] if OPTIONAL in found.get("versions", {}) else []
    return sorted((*TORCH_PACKAGES, *optional), key="peft".__eq__)


def backend(chosen: Found, works: dict[str, bool]) -> Finding:
    """Report the backend that auto picks, why, and whether it works.

    Args:
        works: for each backend's name, True if its libraries work.
    """
    name, why = chosen.get("name"), chosen.get("why") or chosen.get("failed")
    if name and works[name]:
        return Finding("backend", OK, f"auto picks {name}: {why}")
    said = f"auto picks {name} ({why}), which does not work" if name else f"auto cannot pick one: {why}"
    other = next((other for other, good in works.items() if good), None)
    instead = f"use the other one: `--backend {other}`, or " if other else ""
    return Finding("backend", MISSING, said, f"{instead}repair what the lines MLX and torch name")


def llamacpp(found: Found) -> Finding:
    """Report the llama.cpp bindings and tools that ``export gguf`` quantizes and checks with."""
    from ..engines.llamacpp.run import HOW_TO_GET, QUANTIZE_PROGRAM, bindings

    program = shutil.which(QUANTIZE_PROGRAM)
    beside = f"; {program}" if program else ""
    how = f"only `export gguf` and `export ollama` need it: {HOW_TO_GET}"
    installed = bindings()
    if not installed:
        return Finding("llama.cpp", MISSING, f"no binding for Python{beside}", how)
    # The first that is installed is the one that is used.
    needed = (*installed[:1], "gguf")
    return faults("llama.cpp", found, needed, how) or Finding("llama.cpp", OK, versions(found, needed) + beside)


def converter() -> Finding:
    """Report the converter that ``export gguf`` uses for other architectures."""
    from ..export.gguf.converter import HOW_TO_GET, find_converter

    found = find_converter(None)
    if found is None:
        said = "none on PATH: llama, mistral, qwen2 and qwen3 go to GGUF without one"
        return Finding("converter", NOTE, said, f"for other architectures {HOW_TO_GET}")
    return Finding("converter", OK, f"{found[0]} converts what is not written here to GGUF")


def faults(name: str, found: Found, packages: Sequence[str], how_to_get: str) -> Finding | None:
    """Return the fault that keeps the packages from working together, or None."""
    if "failed" in found:
        return Finding(name, MISSING, f"importing it failed: {found['failed']}", _again(packages))
    broken = [package for package in packages if package in found["broken"]]
    if broken:
        # The first only: a package that imports a broken one is broken too.
        said = f"{broken[0]} {found['versions'][broken[0]]} does not work: {found['broken'][broken[0]]}"
        return Finding(name, MISSING, said, _again(broken[:1]))
    if absent := [package for package in packages if package not in found["versions"]]:
        there = versions(found, packages)
        said = f"not installed: {', '.join(absent)}" + (f" (there: {there})" if there else "")
        return Finding(name, MISSING, said, how_to_get)
    return None


def versions(found: Found, packages: Iterable[str]) -> str:
    """Return the installed ones of the packages, with their versions."""
    return ", ".join(f"{name} {found['versions'][name]}" for name in packages if name in found["versions"])


def _again(packages: Iterable[str]) -> str:
    return f"install it again: `pip install --force-reinstall {' '.join(packages)}`"
