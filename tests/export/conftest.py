"""Runs that were really trained, two steps, on small bases with sharp weights."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import make_run, sharpen

from mlx_lora.config import TrainingConfig
from mlx_lora.training.train import train

TRAINING = {
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "lora_dropout": 0.0,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "max_steps": 2,
    "warmup_steps": 0,
    # Two steps have to change what the model says.
    "learning_rate": 0.03,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
}


@pytest.fixture(scope="session")
def trained_run(make_model, eisv_data, tmp_path_factory):
    """A run directory of a base with sharp weights: make it with a model type and changes to its config.

    ``tokenizer`` is a directory whose tokenizer the base gets instead of the tiny base's. ``change`` is done to the
    base before. ``training`` changes the training's config. With ``drawn`` the adapter is drawn at random, and weak,
    instead of trained, which is faster; with ``sharp=False`` the base's weights stay as random as they were made.
    """
    made: dict[str, Path] = {}

    def make(model_type="llama", tokenizer=None, training=None, change=None, drawn=False, sharp=True, **config) -> Path:
        key = repr([model_type, tokenizer, training, change, drawn, sharp, config])
        if key not in made:
            base = make_model(model_type, **config)
            if sharp:
                sharpen(base)
            if tokenizer is not None:
                replace_tokenizer(base, tokenizer)
            if change is not None:
                change(base)
            out = tmp_path_factory.mktemp("runs") / "run"
            settings = {**TRAINING, **(training or {})}
            if drawn:
                make_run(base, out, data=str(eisv_data), **{**settings, "lora_alpha": 0.4})
            else:
                paths = {"model_name": str(base), "data": str(eisv_data), "output_dir": str(out)}
                train(TrainingConfig(**{**settings, **paths}), quiet=True)
            made[key] = out
        return made[key]

    return make


def replace_tokenizer(base: Path, tokenizer: Path) -> None:
    for file in base.glob("tokenizer*"):
        file.unlink()
    for file in tokenizer.glob("*"):
        if file.name.startswith(("tokenizer", "vocab", "merges", "added", "special", "chat_template")):
            shutil.copy(file, base / file.name)


@pytest.fixture
def values():
    """The values of a report's checks, by name."""
    return lambda report: {check.name: check.value for check in report.checks}


@pytest.fixture(scope="session")
def peft(tmp_path_factory):
    """Let PEFT do some jobs, in this environment or the one MLX_LORA_PEFT_PYTHON names."""
    python = os.environ.get("MLX_LORA_PEFT_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("peft") is None:
        pytest.skip("PEFT is not installed: pip install '.[torch]', or name its Python with MLX_LORA_PEFT_PYTHON")

    def run(jobs: list[dict]) -> None:
        request = tmp_path_factory.mktemp("peft") / "request.json"
        request.write_text(json.dumps(jobs, default=str))
        server = Path(__file__).with_name("peft_server.py")
        done = subprocess.run([python, server, request], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
