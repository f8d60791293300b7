"""``train --dry-run``: what would be trained, how large it is, and how long it would take."""

from __future__ import annotations

import time
from typing import Any

from ..backends import Backend
from ..backends.choose import choose
from ..data.encode import EncodedExample
from .prepare import Prepared
from .trainer import epoch_steps, total_steps, training_steps

TIMED_STEPS = 3


def marked(backend: Backend, example: EncodedExample) -> str:
    """An example as the model sees it, the supervised tokens between ⟦ and ⟧."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(example) + 1):
        if end == len(example) or example.supervised[end] != example.supervised[start]:
            text = backend.tokenizer.decode(example.ids[start:end].tolist(), skip_special_tokens=False)
            parts.append(f"⟦{text}⟧" if example.supervised[start] else text)
            start = end
    return "".join(parts)


def dry_run(ready: Prepared) -> dict[str, Any]:
    """Everything about a run but its result; a few real steps are made, and forgotten, to time it."""
    config, train = ready.config, ready.train
    steps = total_steps(config, len(train))
    lengths = [len(e) for e in train]
    trainable = ready.backend.attach_lora(config)
    taken = training_steps(config, train, mix=ready.mix)
    seconds = []
    for step in range(1, min(TIMED_STEPS, steps) + 1):
        _, _, micro_batches = next(taken)
        started = time.perf_counter()
        ready.backend.train_step(micro_batches, step, 0.0)
        seconds.append(time.perf_counter() - started)
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
        "shortened_prompts": sum(e.cut > 0 for e in train),
        "steps_per_epoch": epoch_steps(config, len(train)),
        "total_steps": steps,
        # The first step compiles; the fastest is the nearest to what the rest will take.
        "estimated_seconds": min(seconds) * steps,
        "estimated_peak_memory_gb": ready.backend.peak_memory() / 1e9,
        "machine_memory_gb": ready.backend.machine_memory() / 1e9,
        "notes": ready.notes(),
        "example": marked(ready.backend, train[0]),
    }
