"""A bench's results in a directory: JSON for scripts, Markdown and a picture for people."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files import write_atomic, write_json, writing
from .picture import picture

COLUMNS = ("data", "shape", "batch", "step time", "arithmetic", "memory", "loss ours", "loss theirs")


def table_rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cells of each comparison, in the order of ``COLUMNS``; ratios are ours over theirs."""
    return [
        (
            r["data"],
            r["shape"],
            str(r["batch_size"]),
            f"{r['step_time_ratio']:.2f}",
            f"{r['arithmetic_ratio']:.2f}",
            f"{r['peak_memory_ratio']:.2f}",
            f"{r['loss_ours']:.3f}",
            f"{r['loss_theirs']:.3f}",
        )
        for r in results
    ]


def machine() -> dict[str, str]:
    """What the figures were taken on, and when (UTC)."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
    }


def _processor() -> str:
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return done.stdout.strip() or platform.processor()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


def write_results(out: Path, results: Sequence[dict[str, Any]], how: str) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.svg``, replacing earlier ones.

    Args:
        how: the command line that was run.

    Raises:
        UserError: the directory cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    about = machine()
    write_json(out / "bench.json", {"command": how, "machine": about, "results": list(results)})
    write_atomic(out / "bench.svg", picture(results))
    lines = [" | ".join(row) for row in (COLUMNS, ("---",) * len(COLUMNS), *table_rows(results))]
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    table = "\n".join(f"| {line} |" for line in lines)
    write_atomic(out / "bench.md", f"`{how}`\n\n{facts}\n\n{table}\n\n![ratios](bench.svg)\n")
