"""Everything that can be trained: LoRA, rsLoRA, DoRA, whole layers, quantized bases, low precision."""

from __future__ import annotations

import json
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from quantized_fixtures import quantized

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import resolve_model


def batch():
    rng = np.random.default_rng(2)
    made = []
    for length in (40, 33, 37):
        mask = np.zeros(length, dtype=bool)
        mask[-6:] = True
        made.append(EncodedExample(rng.integers(0, 1000, length).astype(np.int32), mask))
    return collate(made)


def train(path, steps=8, **config):
    model = resolve_model(str(path))
    backend = MLXBackend(model)
    backend.attach_lora(TrainingConfig(**{"lora_rank": 4, "lora_dropout": 0.0, **config}))
    losses = [backend.train_step([batch()], step, 5e-3).loss for step in range(1, steps + 1)]
    assert losses[-1] < losses[0]
    return backend, model


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"fine_tune_type": "dora"}, {"num_layers": 1}])
def test_adapters_load_in_mlx_lm_and_here(make_model, tmp_path, config):
    backend, model = train(make_model("llama"), **config)
    backend.save_adapter(tmp_path, model)
    tokens = mx.arange(30)[None]
    expected = np.array(backend.model(tokens))
    theirs, _ = load_model(model.path)
    load_adapters(theirs, str(tmp_path))
    np.testing.assert_allclose(np.array(theirs(tokens)), expected, atol=1e-5)
    ours = MLXBackend(model)
    ours.load_adapter(tmp_path)
    np.testing.assert_array_equal(np.array(ours.model(tokens)), expected)
    scale = json.loads((tmp_path / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    assert scale == pytest.approx(32 / math.sqrt(4) if config.get("use_rslora") else 8.0)


def test_full_fine_tuning(make_model, tmp_path):
    backend, model = train(make_model("llama"), fine_tune_type="full", num_layers=1)
    names = [name for name, _ in tree_flatten(backend.model.trainable_parameters())]
    assert "model.layers.1.mlp.up_proj.weight" in names
    assert not any("layers.0" in name or "lora" in name for name in names)
    backend.save_adapter(tmp_path, model)
    theirs, _ = load_model(model.path)
    load_adapters(theirs, str(tmp_path))
    tokens = mx.arange(30)[None]
    np.testing.assert_array_equal(np.array(theirs(tokens)), np.array(backend.model(tokens)))


def test_a_quantized_base(make_model, tmp_path):
    path = quantized(make_model("llama"), tmp_path)
    backend, _ = train(path)
    assert isinstance(backend.model.layers[0].self_attn.q_proj.linear, nn.QuantizedLinear)
    assert backend.model.layers[0].self_attn.q_proj.lora_a.shape == (64, 4)
    with pytest.raises(UserError, match="quantized base cannot be trained in full"):
        train(path, fine_tune_type="full")


def test_a_bfloat16_base_keeps_float32_masters(make_model):
    path = make_model("llama")
    weights = {name: value.astype(mx.bfloat16) for name, value in mx.load(str(path / "model.safetensors")).items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    backend, _ = train(path)
    layer = backend.model.layers[0].self_attn.q_proj
    assert layer.lora_a.dtype == mx.float32
    assert layer(mx.zeros((1, 2, 64), dtype=mx.bfloat16)).dtype == mx.bfloat16
    assert backend.path.share_prefix


def test_adafactor(make_model):
    train(make_model("llama"), optimizer="adafactor")


def test_experts_are_adapted_too(make_model):
    path = make_model("qwen3_moe")
    backend, _ = train(path, lora_target_modules=["q_proj", "down_proj"])
    names = [name for name, _ in tree_flatten(backend.model.trainable_parameters())]
    assert "model.layers.0.mlp.switch_mlp.down_proj.lora_a" in names


def test_an_adapter_of_another_model_is_refused(make_model, tmp_path):
    backend, model = train(make_model("llama"), steps=2)
    backend.save_adapter(tmp_path, model)
    with pytest.raises(UserError, match="does not fit its base model"):
        MLXBackend(resolve_model(str(make_model("llama", hidden_size=128)))).load_adapter(tmp_path)
