"""Dry run (``train --dry-run``): the data, model size and estimated time of a training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..backends import Backend
from ..backends.registry import choose
from ..data.collate import Batch, collate
from ..data.tokenize import EncodedExample
from .setup import TrainingSetup
from .trainer import epoch_steps, total_steps, training_steps

TIMED_STEPS = 3
WHOLE_STEPS = "whole steps"
# Time limit of the measurement once the model is loaded; a part is started only if it should end by then.
BUDGET_SECONDS = 30.0


def marked(backend: Backend, example: EncodedExample) -> str:
    """Return an example as the model sees it, the supervised tokens between ⟦ and ⟧."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(example) + 1):
        if end == len(example) or example.supervised[end] != example.supervised[start]:
            text = backend.tokenizer.decode(example.ids[start:end].tolist(), skip_special_tokens=False)
            parts.append(f"⟦{text}⟧" if example.supervised[start] else text)
            start = end
    return "".join(parts)


@dataclass
class Timing:
    """The time of a step, and the parts it was measured with."""

    seconds: float
    measured: str


def time_steps(ready: TrainingSetup, steps: int, advance: Callable[[int], None] = lambda done: None) -> Timing:
    """Time the first optimizer steps, or as much of them as fits in the budget, at a learning rate of 0.

    Parts of growing size come first, so that the time of the next is known before it starts; a step that is not
    executed is assumed to take as long per token as the largest part.

    Args:
        advance: called with the seconds elapsed.
    """
    taken = training_steps(ready.config, ready.train, mix=ready.mix, cost=ready.backend.pass_cost)
    whole = [next(taken)[2] for _ in range(min(TIMED_STEPS, steps))]
    by_length = sorted(ready.train, key=len)
    shortest, median = by_length[0], by_length[len(by_length) // 2]
    # The shortest twice: the first computation compiles, and is not representative of the others.
    pieces = [("the shortest example", [collate([shortest])])] * 2
    pieces += [("one example", [collate([median])]), ("a part of a step", whole[0][:1])]
    pieces += [(WHOLE_STEPS, step) for step in whole]
    began = time.perf_counter()
    rate, measured, complete = 0.0, "", []
    for number, (name, batches) in enumerate(pieces):
        tokens, started = _tokens(batches), time.perf_counter()
        if rate * tokens > BUDGET_SECONDS - (started - began):
            break
        ready.backend.train_step(batches, number + 1, 0.0)
        seconds, measured = time.perf_counter() - started, name
        rate = seconds / tokens
        if name == WHOLE_STEPS:
            complete.append(seconds)
        advance(int(time.perf_counter() - began))
    # The fastest is the best estimate for the rest.
    return Timing(min(complete, default=rate * sum(map(_tokens, whole)) / len(whole)), measured)


def _tokens(batches: list[Batch]) -> int:
    return sum(batch.padded_tokens for batch in batches)


def report_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows, name and value, of the table that shows a dry run.

    Args:
        report: of :func:`dry_run`, with the line of ``exports`` (``None``: they need MLX).
    """
    bound = "" if report["estimated_from"] == WHOLE_STEPS else "at least "
    memory = f"{report['estimated_peak_memory_gb']:.2f} of {report['machine_memory_gb']:.0f} GB"
    return [
        ("model", report["model"]),
        ("backend", f"{report['backend']}: {report['backend_why']}"),
        ("trainable parameters", f"{report['trainable_parameters']:,}: {report['trained_modules']}"),
        ("examples", f"{report['train_examples']} to train on, {report['valid_examples']} to validate"),
        ("tokens", f"{report['tokens']:,}, of which {report['supervised_tokens']:,} supervised"),
        ("longest example", f"{report['longest']} tokens; {report['shortened_prompts']} prompts lose their middle"),
        ("steps", f"{report['total_steps']} ({report['steps_per_epoch']} an epoch)"),
        ("time", f"about {report['estimated_seconds'] / 60:.1f} minutes, from {report['estimated_from']}"),
        ("peak memory", f"{bound}{memory}"),
        ("exports", report["exports"] or "none without MLX"),
    ]


def dry_run(ready: TrainingSetup, advance: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Return all facts about a run except its result; a few real steps are timed, and then discarded.

    Args:
        advance: as in :func:`time_steps`.
    """
    config, train = ready.config, ready.train
    steps = total_steps(config, len(train))
    lengths = [len(e) for e in train]
    trainable = ready.attach_lora()
    timing = time_steps(ready, steps, advance)
    return {
        "model": ready.model.name,
        "backend": ready.backend.name,
        "backend_why": choose(config.backend).why,
        "trainable_parameters": trainable,
        "trained_modules": ready.backend.coverage,
        "train_examples": len(train),
        "valid_examples": len(ready.valid),
        "tokens": sum(lengths),
        "supervised_tokens": sum(int(e.supervised.sum()) for e in train),
        "longest": max(lengths),
        "shortened_prompts": sum(e.truncated > 0 for e in train),
        "steps_per_epoch": epoch_steps(config, len(train)),
        "total_steps": steps,
        "estimated_seconds": timing.seconds * steps,
        "estimated_from": timing.measured,
        "estimated_peak_memory_gb": ready.backend.peak_memory() / 1e9,
        "machine_memory_gb": ready.backend.machine_memory() / 1e9,
        "notes": ready.notes(),
        "example": marked(ready.backend, train[0]),
    }
