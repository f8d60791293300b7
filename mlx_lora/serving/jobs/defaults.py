"""Defaults of a job: settings that fit its number of rows, where the request leaves them open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config import TrainingConfig
from ...config.validation import validated
from ...training.trainer import total_steps
from .files import JobDirectory

# Checkpoints and lines of metrics over a run: a kill loses at most a twentieth of it.
CHECKPOINTS, MOST_STEPS_UNSAVED, LINES = 20, 50, 500


def training_config(directory: JobDirectory, task: Mapping[str, Any], rows: int) -> TrainingConfig:
    """Return the config of a job's run.

    Args:
        task: see ``worker_process.start_worker``.
        rows: training rows.

    Raises:
        UserError: the request's keys are not those of a config.
    """
    places = {"data": str(directory.data), "output_dir": str(directory.run), "backend": task["backend"]}
    asked = validated(
        "the job's config", {"model_name": task["model"], "seed": task["seed"], **task["config"], **places}
    )
    # A step is a batch, as in OpenAI's contract; a set of a few rows would have no second step otherwise.
    few = {"num_epochs": 3, "batch_size": max(1, min(4, rows // 10)), "gradient_accumulation_steps": 1}
    # Every job's run directory has the same name.
    asked = {"run_name": directory.path.name, **asked}
    config = TrainingConfig(**{**few, "max_seq_length": 2048, **asked})
    steps = total_steps(config, rows)
    by_steps = {
        "warmup_steps": min(TrainingConfig.warmup_steps, steps // 10),
        "save_steps": max(1, min(MOST_STEPS_UNSAVED, steps // CHECKPOINTS)),
        "log_steps": max(1, steps // LINES),
    }
    return TrainingConfig(**{**vars(config), **by_steps, **asked})
