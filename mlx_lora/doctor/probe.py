"""Probe process: ``python -m mlx_lora.doctor.probe NAME`` prints its result as JSON."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import UserError
from .finding import kind_and_line


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


def probe_mlx() -> dict[str, Any]:
    """Probe MLX and mlx-lm, and the GPU that MLX computes on."""
    # First, since it loads the fast BLAS.
    from ..backends import mlx as _  # noqa: F401

    found: dict[str, Any] = try_imports({"mlx": "mlx.core", "mlx-lm": "mlx_lm"})
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


def probe_torch() -> dict[str, Any]:
    """Probe torch, the other packages of the torch backend, and torch's CUDA devices."""
    from ..backends.registry import TORCH_PACKAGES
    from .packages import OPTIONAL

    found: dict[str, Any] = try_imports({name: name for name in (*TORCH_PACKAGES, OPTIONAL)})
    if _works(found, "torch"):
        try:
            found |= _torch_gpus()
        except Exception as error:
            found["broken"]["torch"] = kind_and_line(error)
    return found


def _torch_gpus() -> dict[str, Any]:
    import torch

    hip, cuda = torch.version.hip, torch.version.cuda
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.cuda.get_device_properties(number) for number in range(count)]
    return {
        "build": f"ROCm {hip}" if hip else f"CUDA {cuda}" if cuda else None,
        "gpus": [{"name": device.name, "memory": device.total_memory} for device in devices],
    }


def probe_backend() -> dict[str, Any]:
    """Probe the backend that auto picks."""
    from ..backends.registry import choose

    try:
        return asdict(choose())
    except UserError as error:
        return {"name": None, "why": str(error)}
    except Exception as error:
        return {"name": None, "why": kind_and_line(error)}


def probe_llamacpp() -> dict[str, Any]:
    """Probe the bindings of llama.cpp, and the writers of GGUF files."""
    from ..engines.llamacpp.run import BINDINGS

    return try_imports({**BINDINGS, "gguf": "gguf"})


def _works(found: dict[str, Any], package: str) -> bool:
    return package in found["versions"] and package not in found["broken"]


PROBES = {"mlx": probe_mlx, "torch": probe_torch, "backend": probe_backend, "llamacpp": probe_llamacpp}

if __name__ == "__main__":
    print("\n" + json.dumps(PROBES[sys.argv[1]]()))
