"""Runs with small true adapters, and generations made of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_lora.models.resolve import BUILT_IN, resolve_model
from mlx_lora.runs.generations import Generations

BASE = next(iter(BUILT_IN))


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Make a finished run whose adapter holds one number, which tells it from others."""
    directory = tmp_path_factory.mktemp("made")
    fingerprint = resolve_model(BASE).fingerprint

    def make(number: int, **record):
        run = directory / f"run-{number:04d}"
        if run.exists():
            return run
        run.mkdir()
        save_file({"number": np.full((64, 4), number, np.float32)}, run / "adapters.safetensors")
        parameters = {"rank": 4, "scale": 2.0, "dropout": 0.1 * (number % 3), "keys": ["self_attn.q_proj"]}
        described = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
        (run / "adapter_config.json").write_text(json.dumps(described))
        about = {"format": 1, "model": BASE, "base_fingerprint": fingerprint, "data_sha256": {}, "number": number}
        (run / "run.json").write_text(json.dumps({**about, **record}))
        (run / "report.html").write_text(f"<p>{number}</p>")
        return run

    return make


@pytest.fixture
def generations(tmp_path, make_run):
    """Three generations, the last one live and the best."""
    made = Generations(tmp_path / "agent")
    for number in (1, 2, 3):
        made.promote(made.add(make_run(number), {"cycle": f"{number:04d}"}), f"night {number}")
    made.mark_best(3, "the best so far")
    return made
