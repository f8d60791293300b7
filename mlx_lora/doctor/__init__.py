"""Environment check (``mlx-lora doctor``): this machine's hardware, packages and services, with advice.

Every probe survives a failure of its subject: libraries are imported in processes of their own, and a failed probe is a
finding too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .machine import MISSING, NOTE, Finding, kind_and_line

__all__ = ["Examination", "Finding", "examine"]


@dataclass(frozen=True)
class Examination:
    """The result of ``examine``: all findings.

    Attributes:
        backend: ``name``, ``mlx`` or ``torch`` (``None`` where auto cannot pick one), and ``why``.
        can_train: True if one of the two backends works.
    """

    findings: list[Finding]
    backend: dict[str, str | None]
    can_train: bool


def examine() -> Examination:
    """Run all probes; takes as long as importing the libraries does."""
    # Here, so that a probe process, which runs the module, is the first to import it.
    from . import machine, nights, packages

    with ThreadPoolExecutor() as pool:
        mlx, torch, chosen, llamacpp = pool.map(packages.ask, packages.PROBES)
    on_mlx, on_torch = packages.mlx(mlx, torch), packages.torch(torch)
    works = {"mlx": on_mlx.state != MISSING, "torch": on_torch.state != MISSING}
    findings = [
        _looked("machine", machine.machine),
        _looked("memory", lambda: machine.memory(machine.recommended_memory(mlx, torch))),
        _looked("disk", lambda: machine.disk("disk", Path.cwd(), "work in a directory elsewhere")),
        machine.gpu(mlx, torch),
        on_mlx,
        _looked("BLAS", lambda: packages.blas(mlx)),
        on_torch,
        packages.backend(chosen, works),
        packages.llamacpp(llamacpp),
        _looked("converter", packages.converter),
        _looked("Ollama", machine.ollama),
        _looked("hub token", machine.hub_token),
        _looked("hub cache", machine.hub_cache),
        *_looked_at_several("night", nights.night_findings),
    ]
    backend = {"name": chosen.get("name"), "why": chosen.get("why") or chosen.get("failed")}
    return Examination(findings, backend, any(works.values()))


def _looked(name: str, look: Callable[[], Finding]) -> Finding:
    """Return the finding of a probe, or one that says why the probe failed."""
    return _looked_at_several(name, lambda: [look()])[0]


def _looked_at_several(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:
        said = f"it could not be looked at: {kind_and_line(error)}"
        return [Finding(name, NOTE, said, "repair what this names; the other lines hold without it")]
