"""What the tests of both backends share: examples, backends with and without a trained adapter."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import mlx_lora.backends.mlx  # noqa: F401  first: it loads a fast BLAS before MLX

# isort: split
import numpy as np
from safetensors.numpy import load_file

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.backends.torch.backend import TorchBackend
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.models.resolve import resolve_model

BACKENDS = {"mlx": MLXBackend, "torch": TorchBackend}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def examples(count=4, prefix=21, seed=5, weighted=True):
    """Examples with a common prefix, answers of various lengths, and weights."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, 1000, prefix)
    made = []
    for _ in range(count):
        length, answer = int(rng.integers(44, 62)), int(rng.integers(3, 20))
        mask = np.zeros(length, dtype=bool)
        mask[-answer:] = True
        ids = np.r_[shared, rng.integers(0, 1000, length - prefix)].astype(np.int32)
        made.append(EncodedExample(ids, mask, float(rng.uniform(0.2, 2)) if weighted else 1.0))
    return made


def fresh(name, path, **config):
    """A backend with a fresh adapter."""
    backend = BACKENDS[name](resolve_model(str(path)))
    backend.attach_lora(TrainingConfig(**{"lora_rank": 4, "lora_dropout": 0.0, **config}))
    return backend


def steps(backend, numbers, rate=5e-3):
    """Losses of some optimizer steps, each on batches of its own."""
    return [
        backend.train_step([collate(examples(seed=n)), collate(examples(2, seed=100 + n))], n, rate).loss
        for n in numbers
    ]


def state_of(backend, directory: Path):
    """All that a checkpoint holds, as numpy arrays."""
    file = directory / "state.safetensors"
    backend.save_state(file)
    return load_file(file)


def changed_model(path, change):
    """A copy of a model directory with every weight changed: ``change(name, array)``."""
    import mlx.core as mx

    copy = Path(tempfile.mkdtemp())
    shutil.copytree(path, copy, dirs_exist_ok=True)
    weights = {name: change(name, value) for name, value in mx.load(str(path / "model.safetensors")).items()}
    mx.save_safetensors(str(copy / "model.safetensors"), weights)
    return copy


def sharp_model(path, factor=6.0):
    """A model whose random weights are large enough for its answers to depend on the adapter."""
    return changed_model(path, lambda name, value: value * factor if "proj" in name else value)


def curve(out: Path, event="progress", key="loss"):
    """A measurement of a run by step."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if row["event"] == event}
