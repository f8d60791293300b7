"""The number of trainable parameters, predicted from a config and counted in what was trained."""

from __future__ import annotations

import json

import mlx.core as mx
import pytest

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.bench.cases import shape_config
from mlx_lora.config import TrainingConfig
from mlx_lora.errors import UserError
from mlx_lora.models.parameters import stored_parameters, trainable_parameters
from mlx_lora.models.resolve import resolve_model
from mlx_lora.training.train import train

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_the_published_sizes():
    coder = TrainingConfig(lora_rank=16, lora_target_modules=SEVEN)
    assert trainable_parameters(shape_config("qwen2.5-coder-7b"), coder) == 40_370_176
    small = TrainingConfig(lora_rank=4, lora_target_modules=["q_proj", "v_proj"])
    assert trainable_parameters(shape_config("qwen2.5-0.5b"), small) == 270_336


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_target_modules": SEVEN, "num_layers": 1}, {"fine_tune_type": "dora", "lora_target_modules": SEVEN}],
)
def test_the_prediction_is_what_is_trained_and_saved(make_model, tmp_path, model_type, settings):
    path = make_model(model_type)
    training = TrainingConfig(lora_rank=4, **settings)
    model = resolve_model(str(path))
    backend = MLXBackend(model)
    attached = backend.attach_lora(training)
    assert trainable_parameters(json.loads((path / "config.json").read_text()), training) == attached
    backend.save_adapter(tmp_path, model)
    assert stored_parameters(tmp_path / "adapters.safetensors") == attached


def test_after_training_the_saved_adapter_is_counted(eisv_data, tmp_path, monkeypatch):
    def forgetful(backend, directory, base):
        saving(backend, directory, base)
        file = str(directory / "adapters.safetensors")
        weights = dict(mx.load(file))
        weights.popitem()
        mx.save_safetensors(file, weights)

    saving = MLXBackend.save_adapter
    monkeypatch.setattr(MLXBackend, "save_adapter", forgetful)
    out = tmp_path / "run"
    config = TrainingConfig(model_name="builtin/tiny-lumen", data=str(eisv_data), output_dir=str(out), max_steps=1)
    with pytest.raises(UserError, match="parameters were trained and"):
        train(config, quiet=True)
    assert json.loads((out / "run.json").read_text())["result"] is None


def test_what_cannot_be_said_without_the_weights():
    config = shape_config("qwen2.5-0.5b")
    assert trainable_parameters(config, TrainingConfig(fine_tune_type="full")) is None
    assert trainable_parameters({**config, "model_type": "mixtral"}, TrainingConfig()) is None
    assert trainable_parameters(config, TrainingConfig(lora_target_modules=["qkv_proj"])) is None


def test_a_file_that_is_no_safetensors(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        stored_parameters(tmp_path / "x")
    mx.save_safetensors(str(tmp_path / "y.safetensors"), {"a": mx.zeros((3, 4)), "b": mx.zeros(5)})
    assert stored_parameters(tmp_path / "y.safetensors") == 17
