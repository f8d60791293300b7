"""The MLX step against the plain computation, and against its own parts."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_lora.backends.adapter_format import initial_a
from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.backends.mlx.loss import BatchArrays, loss_sums
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import resolve_model
from mlx_lora.training.schedule import learning_rate

CONFIG = TrainingConfig(lora_rank=4, lora_alpha=8, lora_dropout=0.0, weight_decay=0.1, seed=3)


def examples(count, seed=0, weight=None):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        length = int(rng.integers(8, 40))
        mask = np.zeros(length, dtype=bool)
        mask[-int(rng.integers(2, 6)) :] = True
        ids = rng.integers(0, 1000, length).astype(np.int32)
        made.append(EncodedExample(ids, mask, 1.0 if weight is None else weight[i]))
    return made


def backend_for(path, config=CONFIG):
    backend = MLXBackend(resolve_model(str(path)))
    trainable = backend.attach_lora(config)
    return backend, trainable


def weights_of(backend):
    return {name: np.array(v) for name, v in tree_flatten(backend.model.trainable_parameters())}


def gradients_of(backend, loss, batch):
    def weighted(model):
        arrays = BatchArrays.of(batch)
        return (loss(model, backend.path, arrays) if loss is loss_sums else loss(model, arrays))[0]

    return dict(tree_flatten(nn.value_and_grad(backend.model, weighted)(backend.model)[1]))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_loss_is_the_mean_over_supervised_tokens(make_model, architecture):
    backend, _ = backend_for(make_model(architecture))
    rows = examples(3, weight=[1.0, 0.5, 2.0])
    weighted, plain, tokens = 0.0, 0.0, 0
    for e in rows:  # one by one, in numpy: no padding, no batch
        logits = np.array(backend.model(mx.array(e.ids[None])).astype(mx.float32))[0].astype(np.float64)
        log_p = (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        losses = [-log_p[i - 1, e.ids[i]] for i in range(1, len(e)) if e.supervised[i]]
        plain, weighted, tokens = plain + sum(losses), weighted + e.weight * sum(losses), tokens + len(losses)
    result = backend.train_step([collate(rows)], 1, 1e-3)
    assert result.loss == pytest.approx(weighted / tokens, rel=1e-5)
    assert result.plain_loss == pytest.approx(plain / tokens, rel=1e-5)


def test_accumulation_equals_one_large_batch(make_model):
    path, rows = make_model("llama"), examples(6)
    whole, _ = backend_for(path)
    parts, _ = backend_for(path)
    for step in (1, 2, 3):
        one = whole.train_step([collate(rows)], step, 1e-2)
        many = parts.train_step([collate(rows[:1]), collate(rows[1:3]), collate(rows[3:])], step, 1e-2)
        assert many.loss == pytest.approx(one.loss, rel=1e-5)
        assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    for name, value in weights_of(whole).items():
        np.testing.assert_allclose(weights_of(parts)[name], value, rtol=1e-3, atol=1e-5)


def test_adamw_is_the_textbooks(make_model):
    """Decoupled weight decay and bias correction (Loshchilov & Hutter 2019), as in torch."""
    backend, _ = backend_for(make_model("llama"))
    rows = collate(examples(4))
    name = next(n for n in weights_of(backend) if n.endswith("lora_b"))
    w = weights_of(backend)[name].astype(np.float64)
    m = v = np.zeros_like(w)
    for step in (1, 2, 3):
        gradient = gradients_of(backend, loss_sums, rows)[name]
        g = np.array(gradient, dtype=np.float64) / rows.tokens
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w * (1 - 1e-2 * 0.1) - 1e-2 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        backend.train_step([rows], step, 1e-2)
        np.testing.assert_allclose(weights_of(backend)[name], w, rtol=2e-3, atol=1e-6)


def test_lora_starts_as_the_base_and_has_the_asked_size(make_model):
    path = make_model("llama")
    base = MLXBackend(resolve_model(str(path)))
    ids = mx.array(examples(1)[0].ids[None])
    before = np.array(base.model(ids))
    backend, trainable = backend_for(path)
    np.testing.assert_array_equal(np.array(backend.model(ids)), before)
    # q and o are 64 → 64, k and v 64 → 32, two layers.
    assert trainable == 2 * 4 * ((64 + 64) * 2 + (64 + 32) * 2)
    assert backend.model.layers[0].self_attn.q_proj.scale == 2.0
    a = weights_of(backend)["model.layers.1.self_attn.v_proj.lora_a"]
    np.testing.assert_array_equal(a, initial_a(3, "model.layers.1.self_attn.v_proj.lora_a", a.shape, 64))
    assert abs(a).max() <= 1 / 8


def test_last_layers_only_and_unknown_modules(make_model):
    path = make_model("qwen2")
    backend, _ = backend_for(path, TrainingConfig(num_layers=1, lora_target_modules=["down_proj"]))
    assert list(weights_of(backend)) == ["model.layers.1.mlp.down_proj.lora_a", "model.layers.1.mlp.down_proj.lora_b"]
    with pytest.raises(UserError, match=r"no wq; it has down_proj, .*v_proj"):
        backend_for(path, TrainingConfig(lora_target_modules=["wq"]))


def test_clipping_and_dropout(make_model):
    path, rows = make_model("llama"), collate(examples(4))
    clipped, _ = backend_for(path, TrainingConfig(lora_dropout=0.0, grad_clip=1e-6, weight_decay=0.0))
    assert clipped.train_step([rows], 1, 1.0).grad_norm > 1e-3  # reported as it was
    dropped = TrainingConfig(lora_dropout=0.5)
    runs = []
    for seeds in ((1, 2), (1, 2), (1, 3)):
        backend, _ = backend_for(path, dropped)
        for step in seeds:
            backend.train_step([rows], step, 1e-2)
            backend.evaluate(rows)  # evaluating changes nothing random
        runs.append(weights_of(backend)["model.layers.0.self_attn.q_proj.lora_b"])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert abs(runs[0] - runs[2]).max() > 0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.25, 0.5, 0.75, 1, *(0.5 * (1 + np.cos(np.pi * i / 8)) for i in range(8))]),
    ],
)
def test_schedules(schedule, expected):
    config = TrainingConfig(learning_rate=1.0, warmup_steps=4, lr_schedule=schedule)
    assert [learning_rate(config, step, 12) for step in range(1, 13)] == pytest.approx(expected)


def test_a_short_run_still_learns_at_full_rate():
    config = TrainingConfig(learning_rate=1.0, warmup_steps=100, lr_schedule="linear")
    rates = [learning_rate(config, step, 10) for step in range(1, 11)]
    assert rates[4] == 1.0
    assert min(rates) > 0
    assert learning_rate(TrainingConfig(learning_rate=1.0, warmup_steps=0), 1, 1) == 1.0


@pytest.mark.parametrize("grad_checkpoint", [False, True])
def test_the_compiled_step_is_the_plain_one(make_model, grad_checkpoint):
    """What a GPU runs, compiled here on the CPU: the same steps, with dropout, over batches of two shapes."""
    from mlx_lora.backends.mlx.train_step import TrainStep

    config = TrainingConfig(lora_rank=4, lora_dropout=0.3, grad_checkpoint=grad_checkpoint)
    path, batches = make_model("llama"), [collate(examples(4, seed=s)) for s in (1, 2)]
    found = []
    for compiled in (False, True):
        backend, _ = backend_for(path, config)
        step = TrainStep(backend.model, backend.path, config, compiled=compiled)
        losses = [step([batches[i % 2]], i, 1e-3).loss for i in range(1, 5)]
        found.append((losses, weights_of(backend)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], value, atol=2e-4)


def test_what_the_gpu_refuses_is_explained():
    from mlx_lora.backends.mlx.memory import explained

    def fail(text):
        with explained():
            raise RuntimeError(text)

    for text, said in (
        ("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)", "kept the display waiting"),
        ("Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)", "display"),
        ("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "not enough memory"),
    ):
        with pytest.raises(UserError, match=said):
            fail(text)
    with pytest.raises(RuntimeError, match="shapes"):
        fail("shapes do not match")
