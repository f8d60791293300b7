"""Runs for the tests: sharp random bases and adapters, so that a transposed or permuted matrix shows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.config import TrainingConfig
from mlx_lora.models.resolve import resolve_model

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def sharpen(model: Path) -> Path:
    """Weights of a model directory drawn wide: 2 / √in for matrices, norms around 1, biases around 0."""
    file = model / "model.safetensors"
    generator = np.random.default_rng(11)
    weights = {}
    for name, value in sorted(mx.load(str(file)).items()):
        drawn = generator.standard_normal(value.shape)
        drawn = drawn * 2 / math.sqrt(value.shape[1]) if value.ndim == 2 else drawn * 0.3
        weights[name] = mx.array((drawn + (1 if "norm" in name else 0)).astype(np.float32))
    mx.save_safetensors(str(file), weights, metadata={"format": "pt"})
    return model


def make_run(base: Path | str, out: Path, system_prompt: str | None = None, data: str | None = None, **config) -> Path:
    """A run directory as ``train`` leaves it, its adapter drawn instead of trained."""
    training = TrainingConfig(**{"model_name": str(base), "lora_rank": 4, "lora_alpha": 6.0, **config})
    model = resolve_model(str(base))
    backend = MLXBackend(model)
    backend.attach_lora(training)
    mx.random.seed(3)
    drawn = []
    for name, value in tree_flatten(backend.model.trainable_parameters()):
        noise = mx.random.normal(value.shape)
        # DoRA's magnitudes stay near the norms that they began as.
        drawn.append((name, value * (1 + 0.1 * noise) if name.endswith(".m") else noise * 0.3))
    backend.model.update(tree_unflatten(drawn))
    out.mkdir(parents=True)
    backend.save_adapter(out, model)
    content = {
        "model": str(base),
        "model_revision": None,
        "data": data,
        "data_sha256": {},
        "learned_from": training.training_fingerprint(),
        "system_prompt": system_prompt,
        "result": None,
    }
    (out / "run.json").write_text(json.dumps(content))
    return out


def mlx_logits(run: Path, tokens: list[int]) -> np.ndarray:
    """float32 [tokens, vocabulary] of the base with the run's adapter."""
    content = json.loads((run / "run.json").read_text())
    backend = MLXBackend(resolve_model(content["model"]))
    backend.load_adapter(run)
    return np.array(backend.model(mx.array([tokens]))[0].astype(mx.float32))


def in_the_hubs_form(base, change):
    """Rename and reshape a base's tensors; returns them."""
    file = str(base / "model.safetensors")
    weights = change(mx.load(file))
    mx.eval(list(weights.values()))
    mx.save_safetensors(file, weights, metadata={"format": "pt"})
    return weights


def one_by_one(weights):
    """Qwen3-MoE's: each expert's matrices are tensors of their own."""
    made = {}
    for name, value in weights.items():
        stem, found, rest = name.partition(".mlp.switch_mlp.")
        made |= {f"{stem}.mlp.experts.{e}.{rest}": value[e] for e in range(len(value))} if found else {name: value}
    return made
