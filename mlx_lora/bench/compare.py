"""Comparison of both trainers in alternating rounds: JSON for scripts, a Markdown table and an SVG chart for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from ..backends.registry import choose
from ..doctor.machine import chip
from ..errors import UserError
from ..files import FORMAT, write_atomic, write_json, writing
from ..reporting.bar_chart import picture
from .cases import STANDARD, WARM_UP, Case, Spec, shape_config
from .report import Report
from .worker import RIVALS, ask_new

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


class Rounds:
    """Reports of both sides by round; cases that differ only in the baseline share the reports of our side.

    Args:
        steps: timed steps per round.
        warm_up: untimed steps before those.
        ask: returns a backend's report for a spec.
    """

    def __init__(
        self, steps: int, seed: int, warm_up: int = WARM_UP, ask: Callable[[str, Spec], Report] = ask_new
    ) -> None:
        self.steps, self.seed, self.warm_up, self.ask = steps, seed, warm_up, ask
        self.reports: dict[tuple[Case, str], list[Report]] = {}

    def run(self, case: Case, number: int, advance: Callable[[], None] = lambda: None) -> None:
        """Run both sides of a case for round ``number``, counted from 0, theirs first in even rounds.

        Raises:
            UserError: a side failed, or packing leaves no step to time.
        """
        for side in ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs"):
            reports = self._of(case, side)
            if len(reports) <= number:
                report = self.ask(case.backend, case.spec(side, self.steps + self.warm_up, self.seed))
                report.warm_up = self.warm_up
                if not report.timed:
                    raise UserError(
                        f"bench: packed, {case.data} gives {len(report.steps)} steps, the first {self.warm_up} of "
                        "which are not timed; raise --steps or --batch-size"
                    )
                reports.append(report)
            advance()

    def _of(self, case: Case, side: str) -> list[Report]:
        theirs = side == "theirs"
        key = replace(case, packing=case.packing and theirs, by_length=case.by_length and theirs)
        return self.reports.setdefault((key, side), [])

    def result(self, case: Case) -> dict[str, Any]:
        """Return the medians over the rounds so far; ratios are ours over theirs."""
        return summary(case, list(zip(self._of(case, "ours"), self._of(case, "theirs"), strict=False)))


def select_cases(
    backend: str | None = None, data: str | None = None, packing: bool = False, dtype: str | None = None, **model: Any
) -> list[Case]:
    """Return the case of a dataset, or without ``data`` the standard ones of the backend.

    Args:
        backend: one of ``RIVALS``, else the backend that auto picks.
        model: further fields of ``Case``, which apply with ``data`` only.

    Raises:
        UserError: an option does not go with the backend or without ``data``.
    """
    name = backend if backend in RIVALS else choose().name
    if name != "torch" and (packing or dtype):
        raise UserError(f"{'--packing' if packing else '--dtype'} is only for --backend torch; leave it out")
    if packing and data is None:
        raise UserError("--packing goes with --data; the standard comparisons have a packed one among them")
    cases = STANDARD[name] if not data else [Case(data, backend=name, packing=packing, **model)]
    return [replace(case, dtype=dtype) for case in cases]


def compare(
    cases: Sequence[Case], rounds: int, steps: int, seed: int, advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Run both sides of every case ``rounds`` times, alternating; see ``summary`` for the content of a result.

    Raises:
        UserError: a baseline is not installed, or a run failed.
    """
    for backend in {case.backend for case in cases}:
        RIVALS[backend].check()
    turns = Rounds(steps, seed)
    for number in range(rounds):
        for case in cases:
            turns.run(case, number, advance)
    return [turns.result(case) for case in cases]


def summary(case: Case, pairs: list[tuple[Report, Report]]) -> dict[str, Any]:
    """Return a case's figures from the (ours, theirs) reports of each round.

    ``step_time_ratio`` compares the mean step on MLX, where steps of both sides hold equally many examples, and the
    time per 1000 real tokens on torch, where a packed step holds another number of examples.
    """

    def cost(report: Report) -> float:
        return report.step_seconds if case.backend == "mlx" else report.token_seconds

    one, two = pairs[0]
    ratios = [cost(a) / cost(b) for a, b in pairs]
    return {
        "data": case.data,
        "shape": _described(case),
        "batch_size": case.batch_size,
        "backend": case.backend,
        "rounds": len(pairs),
        "step_time_ratio": median(ratios),
        "step_time_range": [min(ratios), max(ratios)],
        "arithmetic_ratio": one.token_flops / two.token_flops,
        "peak_memory_ratio": median(a.peak_bytes / b.peak_bytes for a, b in pairs),
        "loss_ours": one.loss,
        "loss_theirs": two.loss,
        "first_losses": {**one.first_losses, **two.first_losses},
        "ours": _speed([a for a, _ in pairs]),
        "theirs": _speed([b for _, b in pairs]),
    }


def _described(case: Case) -> str:
    parts = [
        case.shape,
        "" if case.hidden is None else f"hidden {case.hidden}",
        f"{shape_config(case.shape, case.layers, case.hidden)['num_hidden_layers']} layers",
        "checkpointed" if case.grad_checkpoint else "",
        "theirs packed" if case.packing else "",
        "theirs by length" if case.by_length else "",
    ]
    return ", ".join(part for part in parts if part)


def _speed(reports: list[Report]) -> dict[str, Any]:
    """Return a side's medians over rounds, without the first two steps of each, and its ``about`` entries."""
    first = reports[0]
    seconds, peak = median(report.step_seconds for report in reports), first.about.get("peak_tflops")
    whole = len(first.timed) * seconds
    return {
        "step_seconds": seconds,
        "seconds_per_1000_real_tokens": median(report.token_seconds for report in reports),
        "supervised_tokens_per_second": sum(step.supervised for step in first.timed) / whole,
        "real_tokens_per_second": sum(step.real for step in first.timed) / whole,
        "peak_mb": first.peak_bytes / 1e6,
        # MFU: this arithmetic as a share of the device's peak dense bfloat16 FLOPs.
        "mfu": sum(step.flops for step in first.timed) / whole / (peak * 1e12) if peak else None,
        **first.about,
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
