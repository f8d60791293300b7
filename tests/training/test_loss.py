"""Each saving of the fast path gives the loss and the gradients of the plain computation."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_lora.backends.mlx import loss as loss_module
from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.backends.mlx.loss import BatchArrays, loss_sums, plain_loss_sums
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.models.resolve import resolve_model

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NARROW = {"llama": {}, "qwen2": {}, "qwen3": {}, "llama-untied": {"tie_word_embeddings": False}}
# Capped and scaled logits, windows shorter than the prefix and between it and the rows, recurrent and latent states.
WIDE = {
    "gemma2": {"head_dim": 16, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16},
    "cohere2": {"sliding_window": 24, "sliding_window_pattern": 2, "head_dim": 16, "logit_scale": 0.5},
    "llama-windows": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 6},
}


def examples(prefix=21):
    rng = np.random.default_rng(5)
    shared = rng.integers(0, 1000, prefix)
    made = []
    for length, answer in ((60, 20), (44, 3), (51, 12), (58, 25)):
        mask = np.zeros(length, dtype=bool)
        mask[-answer:] = True
        ids = np.r_[shared, rng.integers(0, 1000, length - prefix)].astype(np.int32)
        made.append(EncodedExample(ids, mask, float(rng.uniform(0.2, 2))))
    return made


def trained(path, **config):
    """A backend whose adapter is no longer zero, so that every matrix has a gradient."""
    backend = MLXBackend(resolve_model(str(path)))
    backend.attach_lora(TrainingConfig(lora_rank=4, lora_dropout=0.0, lora_target_modules=ALL_LINEAR, **config))
    mx.random.seed(1)
    parameters = tree_flatten(backend.model.trainable_parameters())
    backend.model.update(tree_unflatten([(n, v + 0.1 * mx.random.normal(v.shape)) for n, v in parameters]))
    return backend


def sums_and_gradients(backend, compute):
    def weighted(model):
        sums = compute(model)
        return sums[0], sums[1]

    (total, plain), gradients = nn.value_and_grad(backend.model, weighted)(backend.model)
    return float(total), float(plain), {n: np.array(g) for n, g in tree_flatten(gradients)}


def assert_same(backend, batch, near=None):
    """Compare the fast path with the plain one.

    Args:
        near: the largest difference of gradients, relative to the largest gradient; by default 1e-5 of each one's norm.
    """
    arrays = BatchArrays.of(batch)
    fast = sums_and_gradients(backend, lambda model: loss_sums(model, backend.path, arrays))
    plain = sums_and_gradients(backend, lambda model: plain_loss_sums(model, arrays))
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)
    assert fast[1] == pytest.approx(plain[1], rel=1e-5)
    largest = max(np.abs(gradient).max() for gradient in plain[2].values())
    for name, expected in plain[2].items():
        if near is not None:
            assert np.abs(fast[2][name] - expected).max() <= near * largest, name
            continue
        difference = np.linalg.norm(fast[2][name] - expected) / np.linalg.norm(expected)
        assert difference < 1e-5, (name, difference)


@pytest.mark.parametrize("architecture", NARROW)
def test_shared_prefix_and_supervised_positions(make_model, architecture):
    backend = trained(make_model(architecture.split("-")[0], **NARROW[architecture]))
    assert not backend.path.plain
    assert backend.path.share_prefix
    assert backend.path.narrow
    known = ("OpenBLAS", "the tokenizer has the token")
    assert [note for note in backend.notes if not any(words in note for words in known)] == []
    batch = collate(examples())
    assert len(batch.prefix) == 16
    assert_same(backend, batch)
    assert_same(backend, collate(examples(), share_prefix=False))


def test_the_prefix_is_the_same_computation_as_whole_rows(make_model):
    """The batch with a prefix against the same examples collated without one."""
    backend = trained(make_model("llama"))
    shared, whole = collate(examples()), collate(examples(), share_prefix=False)
    one = sums_and_gradients(backend, lambda m: loss_sums(m, backend.path, BatchArrays.of(shared)))
    two = sums_and_gradients(backend, lambda m: plain_loss_sums(m, BatchArrays.of(whole)))
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    for name in one[2]:
        assert np.linalg.norm(one[2][name] - two[2][name]) < 1e-5 * np.linalg.norm(two[2][name])


@pytest.mark.parametrize("tied", [True, False])
def test_chunked_logits(make_model, monkeypatch, tied):
    backend = trained(make_model("llama", tie_word_embeddings=tied))
    monkeypatch.setattr(loss_module, "LEAST_POSITIONS", 7)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", dict.fromkeys(loss_module.LOGITS_AT_ONCE, 1))
    assert_same(backend, collate(examples()))
    backend.model.train()
    assert_same(backend, collate(examples()))


@pytest.mark.parametrize("architecture", WIDE)
def test_other_heads_and_windows_are_as_fast(make_model, architecture):
    backend = trained(make_model(architecture.split("-")[0], **WIDE[architecture]))
    assert not backend.path.plain
    assert backend.path.share_prefix
    assert_same(backend, collate(examples()))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_gradient_checkpointing(make_model, architecture):
    from mlx_lora.backends.mlx.gradient_checkpointing import checkpoint_layers

    path = make_model(architecture)
    backend, other = trained(path), trained(path)
    arrays = BatchArrays.of(collate(examples()))
    expected = sums_and_gradients(backend, lambda model: loss_sums(model, backend.path, arrays))
    checkpoint_layers(backend.model)
    for compute in (lambda m: loss_sums(m, backend.path, arrays), lambda m: plain_loss_sums(m, arrays)):
        found = sums_and_gradients(backend, compute)
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        assert set(found[2]) == set(expected[2])
        for name in expected[2]:
            assert np.linalg.norm(found[2][name] - expected[2][name]) < 1e-5 * np.linalg.norm(expected[2][name])
    assert type(other.model.layers[0]) is not type(backend.model.layers[0])
