"""Nights that were recorded: directories of an adapter with a ``cycle.json`` for every way in which a night ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_lora.runs import generations
from mlx_lora.runs.events import Evaluation, Progress, TrainingWarning, append_event

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>"\' \x1b[31m'
SPEEDS = {"tokens_per_second": 9000.0, "supervised_tokens_per_second": 300.0, "peak_memory_gb": 1.2}


class ReadOnly:
    """A stand-in where a checkout has no generations yet."""

    def __init__(self, directory):
        self.directory = Path(directory)

    @property
    def live(self):
        file = self.directory / "refs" / "live"
        return int(file.read_text()) if file.exists() else None

    def numbers(self):
        return sorted(int(path.name) for path in (self.directory / "generations").glob("[0-9]" * 4))

    def path(self, number):
        return self.directory / "generations" / f"{number:04d}"


if not hasattr(generations, "Generations"):
    generations.Generations = ReadOnly


def step(name: str, minute: int, result: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    ended = None if result is None else f"2026-11-27T03:{minute:02d}:30+00:00"
    started = f"2026-11-27T03:{minute:02d}:00+00:00"
    return {"step": name, "started": started, "ended": ended, "seconds": 30.0, "result": result, **more}


def guards(power: bool = True, throttled: str | None = None) -> dict[str, Any]:
    said = "on AC power" if power else "23 % battery, and AC power is asked for"
    found = [
        {"name": "disk", "ok": True, "said": "120 GB free"},
        {"name": "power", "ok": power, "said": said},
    ]
    return step("guards", 0, {"guards": found, "rates": {"small": 10.0}, "throttled": throttled})


def gather(new: int = 40, failed: str | None = None) -> dict[str, Any]:
    rows = [f"{number:016x}" for number in range(50)]
    stores = [
        {
            "store": "salience",
            "kind": "salience",
            "paths": ["data/experiences.json"],
            "read": 156,
            "usable": 96,
            "notes": ["3 answers were cut and trimmed"],
        },
        {"store": "traces", "kind": "traces", "paths": ["data/traces"], "read": 20, "usable": 20, "notes": []},
    ]
    if failed:
        stores[1] = {"store": "traces", "kind": "traces", "paths": ["data/traces"], "failed": failed}
    left = [
        {"store": "salience", "reason": "a loop of the same words", "rows": rows},
        {"store": "salience", "reason": "salience below 0.6", "rows": ["low-1"]},
    ]
    return step("gather", 1, {"stores": stores, "total": 116, "new": new, "left_out": left})


def candidate(number: int, alpha: float = 1.0, passed: bool = True) -> dict[str, Any]:
    """A candidate of night ``number``: earlier nights are known a little less well the older they are."""
    nights = [f"{n:04d}" for n in range(1, number + 1)]
    checks = [
        {
            "name": f"{number:04d}",
            "kind": "loss",
            "verdict": "better" if passed else "worse",
            "said": "0.412 nats a token less, at least 0.101 with 95 %",
            "candidate": 1.2345,
            "reference": 1.6465,
        },
        {
            "name": "nights 0001 and 0002",
            "kind": "loss",
            "verdict": "not_worse",
            "said": "no more than 0.02 worse",
            "candidate": 0.81,
            "reference": 0.80,
        },
        {
            "name": "collapse",
            "kind": "collapse",
            "verdict": "not_worse" if passed else "worse",
            "said": "2 of 40 answers loop, 1 of the live adapter's" if passed else "31 of 40 answers loop",
            "candidate": 0.05,
            "reference": None,
        },
    ]
    answers = [
        {
            "prompt": f"What did we say about the lamp on day {n}?",
            "expected": "It stays on while it rains, and somebody dims it at eleven.",
            "before": "I am not sure about the lamp.",
            "after": "It stays on while it rains, and somebody dims it at eleven."
            if n == 0
            else "I am sure it stays on.",
        }
        for n in range(4)
    ]
    answers.append({"prompt": "Hello", "expected": "Hello there.", "before": "Hello there.", "after": "Hello there."})
    return {
        "alpha": alpha,
        "path": "candidates/1",
        "verdict": "better" if passed else "worse",
        "passed": passed,
        "reasons": ["better on tonight's rows, not worse on earlier nights"] if passed else ["the answers collapsed"],
        "checks": checks,
        "scores": {night: round(1 - 0.031 * (number - int(night)), 3) for night in nights},
        "losses": {night: 0.5 + 0.1 * (number - int(night)) for night in nights},
        "answers": answers,
        "pairs": {},
    }


def after_gathering(number: int, candidates: list[dict[str, Any]], chosen: float | None) -> list[dict[str, Any]]:
    trained = {
        "run": "run",
        "steps": 60,
        "loss": 1.1,
        "validation_loss": 1.2345,
        "best_step": 45,
        "tokens": 12345,
        "seconds": 321.0,
        "stopped": None,
    }
    nights = {f"{n:04d}": 13 for n in range(1, number)}
    return [
        step(
            "curate", 2, {"train": 36, "held_out": 4, "left_out": [], "changed": [], "notes": ["a pattern was capped"]}
        ),
        step(
            "replay", 3, {"own": 26, "stored": 13 * (number - 1) - 26, "gold": 10, "nights": nights, "own_loss": 0.36}
        ),
        step("train", 4, trained),
        step("judge", 10, {"candidates": candidates, "chosen": chosen}),
    ]


def record(place: Path, number: int, decision: str | None, reason: str, steps: list, **content: Any) -> Path:
    """Write a ``cycle.json``; returns the cycle's directory."""
    directory = place / "cycles" / f"{number:04d}"
    directory.mkdir(parents=True, exist_ok=True)
    found = {
        "format": 1,
        "cycle": f"{number:04d}",
        "name": str(place),
        "config": {"name": str(place), "min_new": 10},
        "started": "2026-11-27T03:00:00+00:00",
        "ended": "2026-11-27T03:12:00+00:00" if decision else None,
        "parent": number - 1 or None,
        "steps": steps,
        "decision": decision,
        "reason": reason,
        "generation": None,
        "new": 0,
        "replayed": 0,
        "checks": [],
        **content,
    }
    (directory / "cycle.json").write_text(json.dumps(found))
    return directory


def promoted(place: Path, number: int, *more: dict[str, Any], **content: Any) -> Path:
    steps = [guards(), gather(), *after_gathering(number, [candidate(number)], 1.0)]
    steps += [
        step("promote", 11, {"generation": number, "previous": number - 1 or None}),
        step("trial", 12, {"passed": True, "said": "it loads, and answers 8 of 8 questions"}),
    ]
    made = {"generation": number, "new": 40, "replayed": 13 * (number - 1), **content}
    directory = record(place, number, "promoted", "better on tonight's rows", [*steps, *more], **made)
    (directory / "run").mkdir(exist_ok=True)
    metrics = directory / "run" / "metrics.jsonl"
    for at in range(1, 61, 5):
        loss = 3.0 / at**0.3
        event = Progress(step=at, epoch=1, learning_rate=1e-4, loss=loss, unweighted_loss=loss, grad_norm=1.0, **SPEEDS)
        append_event(metrics, event)
    append_event(metrics, Evaluation(step=45, epoch=1, validation_loss=1.2345))
    append_event(metrics, TrainingWarning(step=45, message="the gradient norm rose"))
    return directory


def make_live(place: Path, number: int | None) -> None:
    """Make a generation live as far as its readers see it."""
    for n in range(1, (number or 0) + 1):
        (place / "generations" / f"{n:04d}").mkdir(parents=True, exist_ok=True)
    (place / "refs").mkdir(parents=True, exist_ok=True)
    live = place / "refs" / "live"
    if number is None:
        live.unlink(missing_ok=True)
    else:
        live.write_text(f"{number:04d}\n")
