"""Rounds of both sides in turns, and the ratios between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import UserError
from .report import Report, Spec, read_report
from .rivals import RIVALS
from .shapes import shape_config

# Steps that compile or warm caches; both sides' are left out.
WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """One comparison: data, shape and batch size; ``packing`` and ``dtype`` are torch's, as in ``Spec``."""

    data: str
    shape: str
    batch_size: int
    layers: int | None = None
    hidden: int | None = None
    grad_checkpoint: bool = False
    backend: str = "mlx"
    packing: bool = False
    dtype: str | None = None

    def spec(self, side: str, steps: int, seed: int) -> Spec:
        """A side's task, of so many timed steps."""
        count = steps + WARM_UP
        return Spec(
            side=side,
            data=self.data,
            config=shape_config(self.shape, self.layers, self.hidden),
            batch_size=self.batch_size,
            steps=count,
            rows=count * self.batch_size,
            seed=seed,
            grad_checkpoint=self.grad_checkpoint,
            # Ours is the same whether the rival packs or not.
            packing=self.packing and side == "theirs",
            dtype=self.dtype,
        )


# What the project promises to be measured by; scaled down to a machine of two cores.
STANDARD = {
    "mlx": [
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256),
        Case("eisv-like", "small-8k", 8),
        Case("eisv-like", "small-8k", 8, grad_checkpoint=True),
        Case("eisv-like", "small-32k", 8),
        Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224),
        Case("unique", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256),
    ],
    "torch": [
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch"),
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch", packing=True),
        Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224, backend="torch"),
        Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256, backend="torch"),
    ],
}


class Rounds:
    """Reports of both sides of some cases, round after round; cases that differ in packing share our side's.

    Args:
        steps: timed steps a round.
    """

    def __init__(self, cases: Iterable[Case], steps: int, seed: int) -> None:
        self.cases, self.steps, self.seed = list(cases), steps, seed
        self.reports: dict[tuple[Case, str], list[Report]] = {}

    def run(self, case: Case, number: int, advance: Callable[[], None] = lambda: None) -> None:
        """Both sides of a case for round ``number`` from 0, theirs first in even rounds."""
        for side in ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs"):
            reports = self._of(case, side)
            if len(reports) <= number:
                reports.append(run_side(case.backend, case.spec(side, self.steps, self.seed)))
            advance()

    def _of(self, case: Case, side: str) -> list[Report]:
        key = replace(case, packing=case.packing and side == "theirs")
        return self.reports.setdefault((key, side), [])

    def result(self, case: Case) -> dict[str, Any]:
        """Medians over the rounds so far; ratios are ours over theirs."""
        ours, theirs = self._of(case, "ours"), self._of(case, "theirs")
        return summary(case, list(zip(ours, theirs, strict=False)))


def compare(
    cases: Iterable[Case], rounds: int, steps: int, seed: int, advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Both sides of every case ``rounds`` times, alternating; see ``summary`` for what a result holds.

    Raises:
        UserError: a rival is not installed, or a run failed.
    """
    all_rounds = Rounds(cases, steps, seed)
    for backend in {case.backend for case in all_rounds.cases}:
        RIVALS[backend].check()
    for case in all_rounds.cases:
        for number in range(rounds):
            all_rounds.run(case, number, advance)
    return [all_rounds.result(case) for case in all_rounds.cases]


def step_seconds(report: Report) -> float:
    """The mean, since lengths differ from step to step; each side's sum is over the same examples."""
    timed = report.steps[WARM_UP:]
    return sum(step.seconds for step in timed) / len(timed)


def token_seconds(report: Report) -> float:
    """Seconds for a thousand real tokens, whatever a step holds."""
    timed = report.steps[WARM_UP:]
    return 1000 * sum(step.seconds for step in timed) / sum(step.real for step in timed)


def token_flops(report: Report) -> float:
    """Arithmetic for a real token, over all steps: both sides see the same examples."""
    return sum(step.flops for step in report.steps) / sum(step.real for step in report.steps)


def summary(case: Case, pairs: list[tuple[Report, Report]]) -> dict[str, Any]:
    """A case's figures from (ours, theirs) of each round.

    ``step_time_ratio`` is of the mean step on MLX, where both sides' hold equally many examples, and of a thousand
    real tokens on torch, where a packed step holds another number of them.
    """
    cost = step_seconds if case.backend == "mlx" else token_seconds
    one, two = pairs[0]
    return {
        "data": case.data,
        "shape": _described(case),
        "batch_size": case.batch_size,
        "backend": case.backend,
        "rounds": len(pairs),
        "step_time_ratio": median(cost(a) / cost(b) for a, b in pairs),
        "arithmetic_ratio": token_flops(one) / token_flops(two),
        "peak_memory_ratio": median(a.peak_bytes / b.peak_bytes for a, b in pairs),
        "loss_ours": one.loss,
        "loss_theirs": two.loss,
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
    ]
    return ", ".join(part for part in parts if part)


def _speed(reports: list[Report]) -> dict[str, Any]:
    """A side's medians over rounds, the first two steps of each left out, and what it says of itself."""
    first = reports[0]
    timed, seconds = first.steps[WARM_UP:], median(map(step_seconds, reports))
    whole, peak = len(timed) * seconds, first.about.get("peak_tflops")
    return {
        "step_seconds": seconds,
        "seconds_per_1000_real_tokens": median(map(token_seconds, reports)),
        "supervised_tokens_per_second": sum(step.supervised for step in timed) / whole,
        "real_tokens_per_second": sum(step.real for step in timed) / whole,
        "peak_mb": first.peak_bytes / 1e6,
        # The share of the device's dense bfloat16 products that this arithmetic is.
        "mfu": sum(step.flops for step in timed) / whole / (peak * 1e12) if peak else None,
        **first.about,
    }


def run_side(backend: str, spec: Spec) -> Report:
    """A side in a process of its own.

    Raises:
        UserError: it failed; the last line that it wrote says why.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "report.json"
        command = [sys.executable, "-m", RIVALS[backend].worker, json.dumps(asdict(spec)), str(out)]
        # Nothing has to be fetched, and nobody told.
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"bench: the run of {spec.side} on {spec.data} failed ({last})")
        return read_report(out)
