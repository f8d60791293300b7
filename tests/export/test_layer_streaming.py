"""Logits of a model whose blocks are read one at a time: those of the whole model, in a fraction of its memory."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from mlx_lora.backends.mlx import layer_streaming
from mlx_lora.backends.mlx.layer_streaming import load_lazily, streamed_logits
from mlx_lora.models.resolve import resolve_model

PROMPTS = [[5, 17, 300, 42, 7, 9, 11], [900, 3, 3, 250], list(range(20, 60))]
POSITIONS = [[0, 6], [3], [1, 20, 39]]


def whole(base) -> list[np.ndarray]:
    model, _ = load_model(base)
    model.set_dtype(mx.float32)
    return [np.array(model(mx.array([p]))[0, mx.array(at)]) for p, at in zip(PROMPTS, POSITIONS, strict=True)]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"tie_word_embeddings": False}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3_moe", {}),
        ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16}),
    ],
)
def test_the_same_as_the_whole_model(make_model, monkeypatch, kind, config):
    # Several pieces of the vocabulary's matrix.
    monkeypatch.setattr(layer_streaming, "PIECE", 64 * 100)
    # And no way around the blocks.
    monkeypatch.delattr(layer_streaming, "_whole")
    base = make_model(kind, **config)
    found = streamed_logits(lambda: load_lazily(resolve_model(str(base))), PROMPTS, POSITIONS)
    for ours, expected in zip(found, whole(base), strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_model_that_cannot_be_streamed_is_run_whole(make_model, monkeypatch):
    base = make_model("llama")

    def fail(*arguments):
        raise ValueError("this block is called twice")

    monkeypatch.setattr(layer_streaming, "_stream_block", fail)
    found = streamed_logits(lambda: load_lazily(resolve_model(str(base))), PROMPTS, POSITIONS)
    np.testing.assert_allclose(found[2], whole(base)[2], atol=1e-4)
    with pytest.raises(ValueError, match="twice"):
        streamed_logits(lambda: load_lazily(resolve_model(str(base))), PROMPTS, POSITIONS, lambda name: None)


def test_one_block_is_in_memory_at_a_time(make_model):
    base = make_model("llama", hidden_size=512, intermediate_size=2048, num_hidden_layers=12, vocab_size=1024)
    config = json.loads((base / "config.json").read_text())
    block = 4 * (2 * 512 * 512 + 2 * 512 * 512 // (config["num_attention_heads"] // config["num_key_value_heads"]))
    block += 4 * 3 * 512 * 2048
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    streamed_logits(lambda: load_lazily(resolve_model(str(base))), PROMPTS, POSITIONS)
    # As stored (float32 here), in float32, and the embedding with activations.
    assert mx.get_peak_memory() - before < 3 * block
    assert mx.get_active_memory() - before < block
