"""Small nights on the built-in base: stores of trajectories, and a config whose night takes seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import yaml

from mlx_lora.data.dataset import SPLITS, read_split, write_dataset
from mlx_lora.sleep.config import sleep_config
from mlx_lora.sleep.context import Surroundings
from mlx_lora.sleep.cycle import run_cycle
from mlx_lora.sources.eisv import TrajectoryShape, make_dataset

SHAPES = [shape.value for shape in TrajectoryShape]
TRAIN = {
    "lora_rank": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_target_modules": "auto",
    "learning_rate": 3e-3,
    "warmup_steps": 2,
    "max_steps": 4,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
}
GUARDS = {"min_battery": 0, "min_disk_gb": 0, "min_memory_gb": 0}


def trajectories(folder: Path, per_shape: int = 20) -> dict[str, list]:
    """Return examples by shape."""
    make_dataset(folder, min_per_shape=per_shape)
    rows = [example for split in SPLITS for example in read_split(folder, split)]
    return {shape: [example for example in rows if example.meta["shape"] == shape] for shape in SHAPES}


def write_store(folder: Path, rows) -> Path:
    """A dataset directory as a store, in place of the one that is there."""
    shutil.rmtree(folder, ignore_errors=True)
    write_dataset(folder, {"train": list(rows)}, {"source": "test"})
    return folder


def settings(name: Path, stores, **changes) -> dict:
    """The config of a night, as its file would be."""
    listed = [store if isinstance(store, dict) else {"data": str(store), "check": "eisv_gate1"} for store in stores]
    named = [{"name": f"s{number}", **store} for number, store in enumerate(listed)]
    content = {
        "name": str(name),
        "model_name": "builtin/tiny-lumen",
        "stores": named,
        "min_hours": 0,
        "min_total": 10,
        "held_out": 0.2,
        "pattern_share": 1.0,
        "guards": GUARDS,
        "train": TRAIN,
    }
    return {**content, **changes, "train": {**TRAIN, **changes.get("train", {})}}


def write_config(file: Path, content: dict) -> Path:
    file.write_text(yaml.safe_dump(content))
    return file


def run(content: dict, **options):
    """One night in this process."""
    around = Surroundings(lambda description, total: nullcontext(lambda done: None), quiet=True)
    return run_cycle(sleep_config(content, "test"), around, **options)


def night(config: Path, *arguments, program=("-m", "mlx_lora"), timeout=600):
    """One night as a process; returns (exit status, the object of --json or None, standard error)."""
    words = [sys.executable, *map(str, program), "sleep", "run", "--config", str(config), "--json", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    content = json.loads(done.stdout) if done.stdout.startswith("{") else None
    return done.returncode, content, done.stderr
