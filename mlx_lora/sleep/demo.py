"""Demonstration of the night: three short nights on the built-in base, the last with a store that has collapsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.dataset import SPLITS, Example, read_split, write_dataset
from ..files import replace_directory, write_json
from ..sources.eisv import TrajectoryShape, make_dataset
from .config import SleepConfig, sleep_config
from .context import Surroundings
from .cycle import Outcome, run_cycle

RESULTS = "demo.json"
# Shapes of each night's store; on the last night the adapter meets known ones again, and its answers have collapsed.
SHAPES = [shape.value for shape in TrajectoryShape]
NIGHTS = {"monday": SHAPES[0:2], "tuesday": SHAPES[2:4], "wednesday": SHAPES[0:4]}
COLLAPSED = "wednesday"
PER_SHAPE, PER_SHAPE_COLLAPSED = 60, 50
# What an adapter said that had collapsed: one expression, over and over.
STUCK = "~warmth~ ~warmth~ ~warmth~"
EXPECTED = ["promoted", "promoted", "failed"]
TRAIN = {
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "lora_target_modules": "auto",
    "learning_rate": 3e-3,
    "lr_schedule": "cosine",
    "warmup_steps": 8,
    "weight_decay": 0.01,
    "grad_clip": 1.0,
    "num_epochs": 8,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_seq_length": 512,
}


def make_stores(out: Path) -> None:
    """Write the store of each night to ``out/stores``, in place of an earlier demonstration in ``out``.

    Raises:
        UserError: ``out`` is something else.
    """
    replace_directory(out, RESULTS, "an earlier demonstration")
    examples = _trajectories(out / "trajectories", PER_SHAPE, seed=42)
    others = _trajectories(out / "more-trajectories", PER_SHAPE_COLLAPSED, seed=43)
    for night, shapes in NIGHTS.items():
        drawn = map(_stuck, others) if night == COLLAPSED else examples
        rows = [example for example in drawn if example.meta["shape"] in shapes]
        write_dataset(out / "stores" / night, {"train": rows}, {"source": "demo"})


def _trajectories(place: Path, per_shape: int, seed: int) -> list[Example]:
    make_dataset(place, min_per_shape=per_shape, seed=seed)
    return [example for split in SPLITS for example in read_split(place, split)]


def demo_config(out: Path, nights: int, backend: str) -> SleepConfig:
    """Return the config of a night: the stores of the days until then."""
    stores = [
        {"data": str(out / "stores" / night), "name": night, "check": "eisv_gate1"} for night in [*NIGHTS][:nights]
    ]
    return sleep_config(
        {
            "name": str(out / "adapter"),
            "model_name": "builtin/tiny-lumen",
            "stores": stores,
            "min_hours": 0,
            # The full change alone, so that the last night ends in a plain no.
            "merge": [],
            "held_out": 0.15,
            "guards": {"min_battery": 0, "min_disk_gb": 0.2, "min_memory_gb": 0.5},
            "pattern_share": 1.0,
            "train": {**TRAIN, "backend": backend},
        },
        "the demonstration",
    )


def run_demo(
    out: Path, around: Surroundings, backend: str, told: Callable[[str, Outcome], None] = lambda night, outcome: None
) -> dict[str, Any]:
    """Run the nights and return ``{"path", "nights", "live", "index", "as_expected"}``.

    Args:
        told: called with each night's name and outcome.

    Raises:
        UserError: see ``make_stores`` and ``run_cycle``.
    """
    make_stores(out)
    outcomes = []
    for number, night in enumerate(NIGHTS, 1):
        outcomes.append(run_cycle(demo_config(out, number, backend), around))
        told(night, outcomes[-1])
    content = {
        "path": str(out),
        "nights": [outcome.summary for outcome in outcomes],
        "index": str(out / "adapter" / "cycles" / "index.html"),
        "as_expected": [outcome.summary["decision"] for outcome in outcomes] == EXPECTED,
    }
    write_json(out / RESULTS, content)
    return content


def _stuck(example: Example) -> Example:
    *before, answer = example.messages
    return replace(example, messages=[*before, {**answer, "content": STUCK}])
