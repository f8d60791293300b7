"""The fast path, checkpointing, compiling and generation on architectures of many kinds."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import RotatingKVCache
from test_loss import assert_same, examples, sums_and_gradients

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.backends.mlx.generation import answer_in_turn
from mlx_lora.backends.mlx.gradient_checkpointing import checkpoint_layers
from mlx_lora.backends.mlx.loss import BatchArrays, check_windows, loss_sums
from mlx_lora.backends.mlx.train_step import TrainStep
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.models.resolve import resolve_model

# Gated delta and mamba states, latent attention, windows, wrappers, heads that scale, chunks, experts.
KINDS = {
    "qwen3_next": "model",
    "jamba": "model",
    "mamba2": "backbone",
    "deepseek_v3": "model",
    "gemma4": "language_model.model",
    "mistral3": "language_model.model",
    "granite": "model",
    "cohere2": "model",
    "gptj": "model",
    "gpt_neox": "",
    "afm7": "model",
    "llama4": "language_model.model",
}


@pytest.fixture(scope="module")
def architecture(realdata, make_model):
    """A function from a name to a model directory."""
    configs = json.loads((realdata / "architectures.json").read_text())
    return lambda name: make_model(**configs[name])


def trained(path, **config):
    """A backend whose adapter is no longer zero."""
    backend = MLXBackend(resolve_model(str(path)))
    settings = {"lora_rank": 4, "lora_dropout": 0.0, "lora_target_modules": "auto", **config}
    backend.attach_lora(TrainingConfig(**settings))
    mx.random.seed(1)
    parameters = tree_flatten(backend.model.trainable_parameters())
    backend.model.update(tree_unflatten([(n, v + 0.02 * mx.random.normal(v.shape)) for n, v in parameters]))
    backend.model.train()
    return backend


def assert_near(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert set(found[2]) == set(expected[2])
    largest = max(np.abs(value).max() for value in expected[2].values())
    for name, value in expected[2].items():
        assert np.abs(found[2][name] - value).max() <= 1e-4 * largest, name


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_the_plain_computation(architecture, name):
    backend = trained(architecture(name))
    assert backend.path.trunk == KINDS[name]
    assert backend.path.plain == (not KINDS[name])
    assert backend.path.share_prefix
    order = [name for name, _ in tree_flatten(backend.model.parameters())]
    assert_same(backend, collate(examples()), near=1e-4)
    assert_same(backend, collate(examples(), share_prefix=False), near=1e-4)
    assert [name for name, _ in tree_flatten(backend.model.parameters())] == order


@pytest.mark.parametrize("name", ["qwen3_next", "jamba", "gemma4", "mistral3", "deepseek_v3"])
def test_gradient_checkpointing(architecture, name):
    backend = trained(architecture(name))
    arrays = BatchArrays.of(collate(examples()))
    expected = sums_and_gradients(backend, lambda model: loss_sums(model, backend.path, arrays))
    checkpoint_layers(backend.model)
    assert_near(sums_and_gradients(backend, lambda model: loss_sums(model, backend.path, arrays)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jamba", "gemma4", "deepseek_v3"])
def test_the_compiled_step_is_the_plain_one(architecture, name):
    config = TrainingConfig(lora_rank=4, lora_dropout=0.0, lora_target_modules="auto")
    path, batches = architecture(name), [collate(examples(21)), collate(examples(30))]
    found = []
    for compiled in (False, True):
        backend = trained(path)
        step = TrainStep(backend.model, backend.path, config, compiled=compiled)
        found.append([step([batches[i % 2]], i, 1e-3).loss for i in range(1, 5)])
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_window_that_is_not_as_the_model_computes_it_shares_no_prefix(architecture, monkeypatch):
    backend = trained(architecture("cohere2"))
    path = backend.path
    windows = [cache.max_size for cache in backend.model.make_cache() if isinstance(cache, RotatingKVCache)]
    assert check_windows(backend.model, path, max(windows) + 100) == path
    real = RotatingKVCache._trim

    def forgets_too_much(self, trim_size, v, append=None):
        return real(self, trim_size, 0 * v if trim_size > 0 else v, append)

    monkeypatch.setattr(RotatingKVCache, "_trim", forgets_too_much)
    assert check_windows(backend.model, path, max(windows)) == path
    assert check_windows(backend.model, path, max(windows) + 100) == replace(path, share_prefix=False)


@pytest.mark.parametrize(("name", "batches"), [("llama4", False), ("gpt_bigcode", False), ("qwen3", True)])
def test_prompts_are_answered_one_by_one_where_they_cannot_be_batched(architecture, name, batches):
    backend = trained(architecture(name))
    prompts = [list(range(5, 15)), list(range(40, 47)), list(range(100, 130))]
    together = backend.generate(prompts, 6, 0.0, 0)
    assert backend._generation.batches is batches
    assert together == [backend.generate([prompt], 6, 0.0, 0)[0] for prompt in prompts]


def test_an_answer_ends_before_its_end_token(architecture):
    backend = trained(architecture("gpt_bigcode"))

    class Tokenizer:
        eos_token_ids = ()

        def decode(self, tokens):
            return tokens

    def greedy(logits):
        return mx.argmax(logits, axis=-1)

    whole = answer_in_turn(backend.model, Tokenizer(), [[1, 2, 3]], 8, greedy)[0]
    assert len(whole) == 8
    Tokenizer.eos_token_ids = (whole[3],)
    assert answer_in_turn(backend.model, Tokenizer(), [[1, 2, 3]], 8, greedy)[0] == whole[: whole.index(whole[3])]
