"""Benchmark results: JSON for scripts, a Markdown table and an SVG picture for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..doctor.machine import chip
from ..files import FORMAT, write_atomic, write_json, writing
from ..reporting.bar_chart import picture
from .baselines import RIVALS

Cell = Callable[[dict[str, Any]], str]
RATIOS: dict[str, Cell] = {
    "data": lambda r: r["data"],
    "shape": lambda r: r["shape"],
    "batch": lambda r: str(r["batch_size"]),
    "time": lambda r: f"{r['step_time_ratio']:.2f}",
    "rounds": lambda r: "–".join(f"{ratio:.2f}" for ratio in r["step_time_range"]),
    "arithmetic": lambda r: f"{r['arithmetic_ratio']:.2f}",
    "memory": lambda r: f"{r['peak_memory_ratio']:.2f}",
    "loss ours": lambda r: f"{r['loss_ours']:.3f}",
    "loss theirs": lambda r: f"{r['loss_theirs']:.3f}",
}
# Wide tables only: losses of the same rows at learning rate 0, on MLX.
FIRST: dict[str, Cell] = {
    "first loss ours": lambda r: f"{r['first_losses']['ours']:.4f}",
    "theirs": lambda r: f"{r['first_losses']['theirs']:.4f}",
    "theirs without padding": lambda r: f"{r['first_losses']['theirs_without_padding']:.4f}",
}
NOTES = (
    "**time**: median over the rounds of our mean step over theirs, after a warm-up; it leaves out reading, encoding, "
    "evaluation and saving, and on torch collating. **rounds**: the least and the largest of them.",
    "**arithmetic**: products of both sides as counted; it leaves out the adapter's own, what checkpointing computes "
    "again, and all that is not a product.",
    "**memory**: the peak above the weights; it leaves out the base, which both hold.",
    "**loss**: of 32 of the rows after the same number of examples, by the plain computation; it says nothing of rows "
    "that were held out.",
)
FIRST_NOTE = (
    "**first loss**: of the same rows before anything is learned, as each side computes it. mlx-lm trains the padding "
    "after each answer as well; without it the two are the same."
)
# Wide tables only, on torch; MFU is known for few devices.
SPEEDS: dict[str, Cell] = {
    "tokens/s ours": lambda r: f"{r['ours']['real_tokens_per_second']:,.0f}",
    "tokens/s theirs": lambda r: f"{r['theirs']['real_tokens_per_second']:,.0f}",
    "peak GB ours": lambda r: f"{r['ours']['peak_mb'] / 1000:.2f}",
    "peak GB theirs": lambda r: f"{r['theirs']['peak_mb'] / 1000:.2f}",
}
MFU: dict[str, Cell] = {
    "MFU ours": lambda r: f"{r['ours']['mfu']:.0%}",
    "MFU theirs": lambda r: f"{r['theirs']['mfu']:.0%}",
}


def table(results: Sequence[dict[str, Any]], speeds: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return (column names, the cells of each comparison); ratios are ours over theirs.

    Args:
        results: results of one backend.
        speeds: also include the absolute figures (torch) and the first losses (MLX).
    """
    columns = dict(RATIOS)
    if speeds and all("theirs" in r["first_losses"] for r in results):
        columns |= FIRST
    if speeds and results[0]["backend"] == "torch":
        columns |= SPEEDS | (MFU if all(r["ours"]["mfu"] is not None for r in results) else {})
    return list(columns), [[cell(r) for cell in columns.values()] for r in results]


def title(backend: str) -> str:
    """Return the title of a comparison: the two trainers of the ratios."""
    return f"mlx-lora ({backend}) / {RIVALS[backend].name}"


def machine(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the date (UTC), machine and versions of the measurements."""
    backend = results[0]["backend"]
    devices = sorted({r["ours"].get("device", "cpu") for r in results} - {"cpu"})
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **({"device": ", ".join(devices)} if devices else {}),
        "processor": f"{os.cpu_count()} × {chip()}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{name: version(distribution) for name, distribution in RIVALS[backend].versions.items()},
    }


def write_results(out: Path, results: Sequence[dict[str, Any]], how: str) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.svg``, replacing earlier ones.

    Args:
        results: results of one backend.
        how: command line of the benchmark.

    Raises:
        UserError: the directory cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    backend, about = results[0]["backend"], machine(results)
    write_json(out / "bench.json", {"format": FORMAT, "command": how, "machine": about, "results": list(results)})
    write_atomic(out / "bench.svg", picture(results, RIVALS[backend].name))
    columns, rows = table(results, speeds=True)
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))
    notes = "\n".join(f"- {note}" for note in (*NOTES, *([FIRST_NOTE] if FIRST.keys() <= set(columns) else [])))
    parts = (f"`{how}`: {title(backend)}", facts, lines, notes, "![ratios](bench.svg)")
    write_atomic(out / "bench.md", "\n\n".join(parts) + "\n")
