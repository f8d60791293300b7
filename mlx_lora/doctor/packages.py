"""Findings about packages: MLX, torch and llama.cpp, whether they work, and the devices they compute on.

Libraries are imported in probe processes, since a broken one may raise, crash or hang: ``python -m
mlx_lora.doctor.packages NAME`` prints its result as JSON. Each finding takes its probe's result, ``{"failed": why}`` if
the probe did not return.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import UserError
from ..processes import python_command, run_captured
from .machine import MISSING, NOTE, OK, Finding, Found, kind_and_line

MLX_PACKAGES = ("mlx", "mlx-lm")
# Packages that the torch backend can do without.
OPTIONAL = "bitsandbytes"
GET_MLX = "`pip install mlx-lora` brings it on Apple silicon and Linux; elsewhere use `--backend torch`"
GET_TORCH = "only the torch backend (CUDA) needs it: `pip install 'mlx-lora[torch]'`"
GET_BLAS = (
    "products are some 15 times faster with it: `sudo apt install libopenblas0-pthread` "
    "(Debian, Ubuntu; elsewhere the package is called openblas)"
)
# The first import after an installation reads gigabytes.
SECONDS = 120


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


def ask(name: str) -> dict[str, Any]:
    """Return the result of the named probe; ``{"failed": why}`` where a library killed it or took too long."""
    try:
        done = run_captured(python_command("mlx_lora.doctor.packages", name), seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer in {SECONDS} seconds"}
    if done.returncode:
        return {"failed": _last_words(done)}
    # Libraries print too while they are imported.
    return json.loads(done.stdout.splitlines()[-1])


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
    if done.returncode > 0:
        return said[0] if said else f"exit status {done.returncode}"
    return ": ".join([f"killed by {signal.Signals(-done.returncode).name}", *said])


def try_imports(modules: dict[str, str]) -> dict[str, dict[str, str]]:
    """Import modules by the names of their packages.

    Returns ``versions`` of those that are installed, and ``broken``: the errors of those that raise.
    """
    versions, broken = {}, {}
    for package, module in modules.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            continue
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "of unknown version"
        try:
            importlib.import_module(module)
        except Exception as error:
            broken[package] = kind_and_line(error)
    return {"versions": versions, "broken": broken}


def probe_mlx() -> Found:
    """Probe MLX and mlx-lm, and the GPU that MLX computes on."""
    # First, since it loads the fast BLAS.
    from ..backends import mlx as _  # noqa: F401

    found: Found = try_imports({"mlx": "mlx.core", "mlx-lm": "mlx_lm"})
    if _works(found, "mlx"):
        try:
            found["gpu"] = _mlx_gpu()
        except Exception as error:
            found["broken"]["mlx"] = kind_and_line(error)
    return found


def _mlx_gpu() -> dict[str, Any] | None:
    import mlx.core as mx

    from ..backends.mlx.memory import usable_memory

    # Some machines have a GPU that MLX finds and cannot use.
    mx.eval(mx.ones((8, 8)) @ mx.ones((8, 8)))
    if mx.default_device() != mx.Device(mx.gpu):
        return None
    kind = "Metal" if mx.metal.is_available() else "CUDA"
    return {"kind": kind, "name": mx.device_info().get("device_name", "a GPU"), "memory": usable_memory()}


def probe_torch() -> Found:
    """Probe torch, the other packages of the torch backend, and torch's CUDA devices."""
    from ..backends.registry import TORCH_PACKAGES

    found: Found = try_imports({name: name for name in (*TORCH_PACKAGES, OPTIONAL)})
    if _works(found, "torch"):
        try:
            found |= _torch_gpus()
        except Exception as error:
            found["broken"]["torch"] = kind_and_line(error)
    return found


def _torch_gpus() -> Found:
    import torch

    hip, cuda = torch.version.hip, torch.version.cuda
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.cuda.get_device_properties(number) for number in range(count)]
    return {
        "build": f"ROCm {hip}" if hip else f"CUDA {cuda}" if cuda else None,
        "gpus": [{"name": device.name, "memory": device.total_memory} for device in devices],
    }


def probe_backend() -> Found:
    """Probe the backend that auto picks."""
    from ..backends.registry import choose

    try:
        return asdict(choose())
    except UserError as error:
        return {"name": None, "why": str(error)}
    except Exception as error:
        return {"name": None, "why": kind_and_line(error)}


def probe_llamacpp() -> Found:
    """Probe the bindings of llama.cpp, and the writers of GGUF files."""
    from ..engines.llamacpp.run import BINDINGS

    return try_imports({**BINDINGS, "gguf": "gguf"})


def _works(found: Found, package: str) -> bool:
    return package in found["versions"] and package not in found["broken"]


PROBES = {"mlx": probe_mlx, "torch": probe_torch, "backend": probe_backend, "llamacpp": probe_llamacpp}

if __name__ == "__main__":
    print("\n" + json.dumps(PROBES[sys.argv[1]]()))
