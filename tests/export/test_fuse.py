"""Everything that can be trained can be fused, and says the same afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from quantized_fixtures import quantized

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.export import fuse as fuse_module
from mlx_lora.export.fuse import fuse
from mlx_lora.models.resolve import resolve_model

TOKENS = mx.array([list(range(5, 45))])


def in_bfloat16(base):
    file = str(base / "model.safetensors")
    weights = {name: value.astype(mx.bfloat16) for name, value in mx.load(file).items()}
    mx.save_safetensors(file, weights, metadata={"format": "pt"})


def logits_of_run(run):
    backend = MLXBackend(resolve_model(json.loads((run / "run.json").read_text())["model"]))
    backend.load_adapter(run)
    backend.model.set_dtype(mx.float32)
    return np.array(backend.model(TOKENS))


RUNS = [
    ("llama", {}, None, 1e-3),
    ("qwen2", {}, None, 1e-3),
    ("qwen3", {"fine_tune_type": "dora"}, None, 1e-3),
    ("llama", {"fine_tune_type": "full", "num_layers": 1, "learning_rate": 1e-3}, None, 1e-6),
    ("llama", {"use_rslora": True, "num_layers": 1}, in_bfloat16, 1.0),
    ("llama", {}, quantized, 1e-3),
]


@pytest.mark.parametrize(("kind", "training", "change", "limit"), RUNS)
def test_the_fused_model_says_what_the_adapter_says(trained_run, tmp_path, kind, training, change, limit):
    run = trained_run(kind, training=training, change=change, drawn=True)
    report = fuse(str(run), tmp_path / "fused")
    assert [check.name for check in report.checks if not check.passed] == []
    model, config = load_model(tmp_path / "fused")
    assert "quantization" not in config
    weights = mx.load(str(tmp_path / "fused" / "model.safetensors"))
    assert {str(value.dtype) for value in weights.values()} == {
        "mlx.core.bfloat16" if change is in_bfloat16 else "mlx.core.float32"
    }
    model.set_dtype(mx.float32)
    assert np.abs(np.array(model(TOKENS)) - logits_of_run(run)).max() < limit
    assert (change is quantized) == any("quantized again" in note for note in report.notes)


def test_an_adapter_that_rounding_drowns_is_told(trained_run, tmp_path):
    run = trained_run("llama", training={"learning_rate": 1e-5}, change=in_bfloat16)
    assert any("rounding to BF16" in note for note in fuse(str(run), tmp_path / "fused").notes)


def test_a_quantized_base_goes_to_gguf_dequantized(trained_run, tmp_path):
    from mlx_lora.export.gguf.export import export_gguf

    run = trained_run("llama", change=quantized, drawn=True, sharp=False)
    for kind in ("f32", "q4_k_m"):
        report = export_gguf(str(run), tmp_path / kind, kind)
        assert report.verdict == "verified"
        assert "dequantized" in report.notes[0]


def test_what_does_not_say_the_same_is_rejected(trained_run, tmp_path, monkeypatch):
    true = fuse_module.read_weights
    monkeypatch.setattr(fuse_module, "read_weights", lambda source: true(replace(source, adapter=None)))
    report = fuse(str(trained_run("llama", training={}, drawn=True)), tmp_path / "fused")
    assert report.verdict == "rejected"
    assert [path.name for path in tmp_path.iterdir()] == ["fused.rejected"]


@pytest.mark.slow
def test_transformers_loads_it(trained_run, tmp_path):
    torch = pytest.importorskip("torch", reason="transformers needs torch to run a model")
    from transformers import AutoModelForCausalLM

    run = trained_run("qwen3", training={"fine_tune_type": "dora"}, drawn=True)
    fuse(str(run), tmp_path / "fused")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "fused", dtype=torch.float32)
    with torch.no_grad():
        found = model(torch.tensor(TOKENS.tolist())).logits.numpy()
    assert np.abs(found - logits_of_run(run)).max() < 1e-3
