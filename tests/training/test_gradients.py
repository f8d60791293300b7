"""A prefix that is computed once a step: the gradient of the step is that of its parts, each computed whole."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from test_architectures import trained
from test_loss import examples

from mlx_lora.backends.mlx.gradient_checkpointing import checkpoint_layers
from mlx_lora.backends.mlx.gradients import Gradients
from mlx_lora.data.collate import Batch, collate


@pytest.fixture(scope="module")
def base(realdata, make_model):
    configs = json.loads((realdata / "architectures.json").read_text())
    return lambda name: make_model(**configs[name])


def parts() -> list[Batch]:
    rows = examples()
    return [collate(rows[:1], prefix=16), collate(rows[1:3], prefix=16), collate(rows[3:], prefix=16)]


def whole(batch: Batch) -> Batch:
    """The same without a prefix."""
    count, length = batch.ids.shape
    ids = np.concatenate([np.tile(batch.prefix, (count, 1)), batch.ids], axis=1)
    row = batch.positions // length
    return replace(batch, prefix=batch.prefix[:0], ids=ids, positions=batch.positions + (row + 1) * len(batch.prefix))


def total(gradients, batches, seed=0):
    """(weighted sum, gradient by name) of a step."""
    loss, found = 0.0, None
    for (weighted, _), gradient in gradients(batches, seed):
        loss += float(weighted)
        found = gradient if found is None else tree_map(mx.add, found, gradient)
    return loss, {name: np.array(value) for name, value in tree_flatten(found)}


def assert_near(found, expected, near=1e-4):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert set(found[1]) == set(expected[1])
    largest = max(np.abs(value).max() for value in expected[1].values())
    for name, value in expected[1].items():
        assert np.abs(found[1][name] - value).max() <= near * largest, name


@pytest.mark.parametrize("name", ["llama", "qwen3_next", "jamba", "gemma4", "deepseek_v3", "gpt_neox", "cohere2"])
def test_the_step_has_the_gradient_of_its_parts(base, name):
    backend = trained(base(name))
    gradients = Gradients(backend.model, backend.path, False)
    expected = total(gradients, [whole(batch) for batch in parts()])
    assert_near(total(gradients, parts()), expected)
    checkpoint_layers(backend.model)
    assert_near(total(gradients, parts()), expected)


def test_the_prefix_is_computed_once_for_all_parts(base, monkeypatch):
    from mlx_lora.backends.mlx import gradients as module

    calls = []
    real = module.caches_after
    monkeypatch.setattr(module, "caches_after", lambda *given: calls.append(given) or real(*given))
    backend = trained(base("llama"))
    total(Gradients(backend.model, backend.path, False), parts())
    assert len(calls) == 2  # its states, and once more for its gradient


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_dropout_in_the_prefix_is_the_same_when_it_is_computed_again(base, compiled):
    backend = trained(base("llama"), lora_dropout=0.4)
    gradients = Gradients(backend.model, backend.path, compiled)
    first, *others = parts()
    silent = [replace(batch, weights=np.zeros_like(batch.weights)) for batch in others]
    alone = total(gradients, [first])
    assert_near(total(gradients, [first, *silent]), alone)
    loss, other = total(gradients, [first], seed=1)
    assert abs(loss - alone[0]) > 1e-3 * abs(loss)
    assert any(np.abs(other[name] - value).max() > 0 for name, value in alone[1].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma4", "jamba"])
def test_compiled(base, name):
    backend = trained(base(name))
    expected = total(Gradients(backend.model, backend.path, False), parts())
    compiled = Gradients(backend.model, backend.path, True)
    for _ in range(2):
        assert_near(total(compiled, parts()), expected)
    # Parameters that have changed since it was compiled.
    backend.model.update(tree_map(lambda v: v * 1.1, backend.model.trainable_parameters()))
    assert_near(total(compiled, parts()), total(Gradients(backend.model, backend.path, False), parts()))


@pytest.mark.parametrize(("name", "modules"), [("llama", ["q_proj", "v_proj"]), ("qwen3_moe", ["down_proj"])])
def test_dropout_is_the_same_when_a_layer_is_computed_again(make_model, name, modules):
    """The gradient of checkpointed layers against differences of the loss, whose masks follow from the seed alone."""
    backend = trained(make_model(name), lora_dropout=0.5, lora_target_modules=modules)
    checkpoint_layers(backend.model)
    gradients = Gradients(backend.model, backend.path, False)
    (_, gradient), start = total(gradients, parts()), dict(tree_flatten(backend.model.trainable_parameters()))
    norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))
    losses = []
    for far in (-2e-3, 2e-3):
        moved = [(name, value + far / norm * mx.array(gradient[name])) for name, value in start.items()]
        backend.model.update(tree_unflatten(moved))
        losses.append(total(gradients, parts())[0])
    assert (losses[1] - losses[0]) / 4e-3 == pytest.approx(norm, rel=0.02)
