"""Runs that were really trained, two steps, on small bases with sharp weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

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
    """A run directory: make it with a model type, changes to its config, and those to the training.

    ``tokenizer`` is a directory whose tokenizer the base gets instead of the tiny base's, its embedding as large as
    ``vocab_size`` says.
    """
    made: dict[str, Path] = {}

    def make(
        model_type: str = "llama", tokenizer: Path | None = None, training: dict | None = None, change=None, **config
    ) -> Path:
        key = json.dumps([model_type, str(tokenizer), training, getattr(change, "__name__", None), config])
        if key not in made:
            from runs import sharpen

            from mlx_lora.config import TrainingConfig
            from mlx_lora.training.run import train

            base = sharpen(make_model(model_type, **config))
            if tokenizer is not None:
                for file in base.glob("tokenizer*"):
                    file.unlink()
                for file in tokenizer.glob("*"):
                    if file.name.startswith(("tokenizer", "vocab", "merges", "added", "special", "chat_template")):
                        shutil.copy(file, base / file.name)
            if change is not None:
                change(base)
            out = tmp_path_factory.mktemp("runs") / "run"
            settings = {"model_name": str(base), "data": str(eisv_data), "output_dir": str(out)}
            train(TrainingConfig(**{**TRAINING, **settings, **(training or {})}), quiet=True)
            made[key] = out
        return made[key]

    return make


@pytest.fixture
def values():
    """The values of a report's checks, by name."""
    return lambda report: {check.name: check.value for check in report.checks}
