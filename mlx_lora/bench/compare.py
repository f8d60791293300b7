"""Comparison of both trainers: alternating rounds, and the ratios between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from ..errors import UserError
from .baselines import RIVALS
from .model_shapes import shape_config
from .report import WARM_UP, Report, Spec
from .worker import ask_new


@dataclass(frozen=True)
class Case:
    """Benchmark case; ``packing`` and ``dtype`` apply to torch, ``by_length`` to the baseline, as in ``Spec``."""

    data: str
    shape: str
    batch_size: int
    layers: int | None = None
    hidden: int | None = None
    grad_checkpoint: bool = False
    backend: str = "mlx"
    packing: bool = False
    dtype: str | None = None
    by_length: bool = False

    def spec(self, side: str, steps: int, seed: int) -> Spec:
        """Return a side's task."""
        return Spec(
            side=side,
            data=self.data,
            config=shape_config(self.shape, self.layers, self.hidden),
            batch_size=self.batch_size,
            steps=steps,
            rows=steps * self.batch_size,
            seed=seed,
            grad_checkpoint=self.grad_checkpoint,
            # Our side is the same whether the baseline packs or not.
            packing=self.packing and side == "theirs",
            dtype=self.dtype,
            # TRL shuffles all rows: the first steps of each side are excluded, whichever rows they hold.
            own_warm_up=WARM_UP if self.backend == "mlx" else 0,
            by_length=self.by_length and side == "theirs",
        )


# Standard cases, by which the project is measured; scaled down to a machine with two cores.
STANDARD = {
    "mlx": [
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256),
        Case("eisv-like", "small-8k", 8),
        Case("eisv-like", "small-8k", 8, grad_checkpoint=True),
        Case("eisv-like", "small-32k", 8),
        Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224),
        Case("unique", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("unique", "llama-3.2-1b", 8, layers=4, hidden=256, by_length=True),
        Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("traces", "llama-3.2-1b", 8, layers=4, hidden=256),
        Case("long", "llama-3.2-1b", 4, layers=4, hidden=256),
    ],
    "torch": [
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch"),
        Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch", packing=True),
        Case("salience", "qwen2.5-0.5b", 8, layers=6, hidden=224, backend="torch"),
        Case("worst", "llama-3.2-1b", 8, layers=4, hidden=256, backend="torch"),
    ],
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
