"""Rounds of both sides in turns, and the ratios between them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import UserError
from .shapes import shape_config

# Steps that compile or warm caches; both sides' are left out.
WARM_UP = 2


@dataclass
class Case:
    """One comparison: data, shape and batch size."""

    data: str
    shape: str
    batch_size: int
    layers: int | None = None
    hidden: int | None = None
    grad_checkpoint: bool = False


# What the project promises to be measured by; scaled down to a machine of two cores.
STANDARD = [
    Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256),
    Case("eisv-like", "small-8k", 8),
    Case("eisv-like", "small-8k", 8, grad_checkpoint=True),
    Case("eisv-like", "small-32k", 8),
    Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224),
    Case("unique", "llama-3.2-1b", 8, layers=4, hidden=256),
    Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256),
]


def compare(
    case: Case, rounds: int, steps: int, seed: int, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Both sides ``rounds`` times, alternating; medians of the rounds' ratios, ours over theirs."""
    config = shape_config(case.shape, case.layers, case.hidden)
    spec = {
        "data": case.data,
        "config": config,
        "batch_size": case.batch_size,
        "grad_checkpoint": case.grad_checkpoint,
        "steps": steps + WARM_UP,
        "rows": (steps + WARM_UP) * case.batch_size,
        "seed": seed,
    }
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        for side in ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs"):
            sides[side].append(_run({**spec, "side": side}))
            advance()

    def step_time(report: dict[str, Any]) -> float:
        # The mean, since lengths differ from step to step; each side's sum is over the same examples.
        return sum(report["times"][WARM_UP:]) / len(report["times"][WARM_UP:])

    checkpointed = ", checkpointed" if case.grad_checkpoint else ""
    scaled = "" if case.hidden is None else f", hidden {case.hidden}"
    pairs = list(zip(sides["ours"], sides["theirs"], strict=True))
    one, two = pairs[0]
    return {
        "data": case.data,
        "shape": f"{case.shape}{scaled}, {config['num_hidden_layers']} layers{checkpointed}",
        "batch_size": case.batch_size,
        "step_time_ratio": median(step_time(a) / step_time(b) for a, b in pairs),
        "arithmetic_ratio": one["flops"] / two["flops"],
        "peak_memory_ratio": median(a["peak_bytes"] / b["peak_bytes"] for a, b in pairs),
        "loss_ours": one["loss"],
        "loss_theirs": two["loss"],
        "ours": _speed(sides["ours"], step_time),
        "theirs": _speed(sides["theirs"], step_time),
        "fast_blas": one["fast_blas"],
    }


def _speed(reports: list[dict[str, Any]], step_time: Callable[[dict[str, Any]], float]) -> dict[str, float]:
    seconds, first = median(map(step_time, reports)), reports[0]
    steps = len(first["times"])
    return {
        "step_seconds": seconds,
        "supervised_tokens_per_second": first["supervised_tokens"] / steps / seconds,
        "real_tokens_per_second": first["real_tokens"] / steps / seconds,
        "peak_mb": first["peak_bytes"] / 1e6,
    }


def _run(spec: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "report.json"
        command = [sys.executable, "-m", "mlx_lora.bench.worker", json.dumps({**spec, "out": str(out)})]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"bench: the run of {spec['side']} on {spec['data']} failed ({last})")
        return json.loads(out.read_text(encoding="utf-8"))
