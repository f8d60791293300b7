"""Each saving of torch's fast path gives the loss and the gradients of the plain computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from backend_fixtures import ALL_LINEAR, changed_model, examples, fresh

from mlx_lora.backends.torch import loss as loss_module
from mlx_lora.backends.torch.lora import trained
from mlx_lora.backends.torch.loss import BatchArrays, loss_sums, plain_loss_sums
from mlx_lora.data.collate import collate

# transformers adds <|endoftext|> to the tokenizer of any qwen2: a row of the embedding for it.
FAST = {"llama": {}, "qwen2": {"vocab_size": 1025}, "qwen3": {}, "llama-untied": {"tie_word_embeddings": False}}


def touched(path, **config):
    """A backend whose adapter is no longer zero, so that every matrix has a gradient."""
    backend = fresh("torch", path, lora_target_modules=ALL_LINEAR, **config)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in trained(backend.model).values():
            value += 0.1 * torch.randn_like(value)
    backend.model.train()
    return backend


def sums_and_gradients(backend, compute):
    backend.model.zero_grad()
    weighted, plain = compute(backend.model)
    weighted.backward()
    gradients = {name: value.grad.numpy().copy() for name, value in trained(backend.model).items()}
    return weighted.item(), plain.item(), gradients


def assert_same(backend, batch, path=None):
    arrays = BatchArrays.of(batch, backend.device)
    fast = sums_and_gradients(backend, lambda model: loss_sums(model, path or backend.path, arrays))
    plain = sums_and_gradients(backend, lambda model: plain_loss_sums(model, arrays))
    assert fast[:2] == pytest.approx(plain[:2], rel=1e-5)
    for name, expected in plain[2].items():
        difference = np.linalg.norm(fast[2][name] - expected) / np.linalg.norm(expected)
        assert difference < 1e-5, (name, difference)


@pytest.mark.parametrize("architecture", FAST)
def test_shared_prefix_and_supervised_positions(make_model, architecture):
    backend = touched(make_model(architecture.split("-")[0], **FAST[architecture]))
    assert (backend.path.plain, backend.path.share_prefix, backend.path.narrow) == (False, True, True)
    assert backend.notes == []
    batch = collate(examples())
    assert len(batch.prefix) == 16
    assert_same(backend, batch)
    assert_same(backend, collate(examples(), share_prefix=False))


@pytest.mark.parametrize("tied", [True, False])
def test_chunked_logits(make_model, monkeypatch, tied):
    backend = touched(make_model("llama", tie_word_embeddings=tied))
    monkeypatch.setattr(loss_module, "LEAST_POSITIONS", 7)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", {"cpu": 1})
    assert_same(backend, collate(examples()))


def test_scaled_logits_take_the_plain_path_and_say_so(make_model):
    sizes = {"head_dim": 16, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}
    backend = touched(make_model("gemma2", **sizes))
    assert backend.path.plain
    assert any("at chosen positions alone" in note for note in backend.notes)
    assert_same(backend, collate(examples()))


def test_sliding_windows_share_no_prefix_and_say_so(make_model):
    backend = touched(make_model("mistral", sliding_window=6))
    assert (backend.path.plain, backend.path.share_prefix) == (False, False)
    assert any("computed in each row" in note for note in backend.notes)
    assert_same(backend, collate(examples()))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_gradient_checkpointing(make_model, architecture):
    """Loss and gradients are those without it, whichever way they are computed; the layers are left as they were."""
    backend = touched(make_model(architecture))
    checkpointed = replace(backend.path, checkpoint=True)
    assert_same(backend, collate(examples()), checkpointed)
    assert_same(backend, collate(examples(), share_prefix=False), checkpointed)
    assert_same(backend, collate(examples()), replace(checkpointed, plain=True))
    assert all("forward" not in vars(layer) for layer in backend.model.model.layers)


def test_checkpointing_keeps_fewer_activations_and_the_same_dropout(make_model):
    path, batch = make_model("llama", num_hidden_layers=6), collate(examples())
    found = []
    for checkpoint in (False, True):
        backend = touched(path, lora_dropout=0.3, grad_checkpoint=checkpoint)
        kept: dict[int, int] = {}

        def note(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            torch.manual_seed(3)
            sums = loss_sums(backend.model, backend._training.path, BatchArrays.of(batch, backend.device))
        losses = [backend.train_step([batch], n, 1e-2).loss for n in range(1, 4)]
        found.append((sums[0].item(), sum(kept.values()), losses))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert found[1][1] < 0.5 * found[0][1]
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_has_a_float32_adapter(make_model, dtype):
    """Products in the base's dtype, near the float32 ones; the adapter's own values and gradients in float32."""
    import mlx.core as mx

    path = make_model("llama")
    short = mx.bfloat16 if dtype == torch.bfloat16 else mx.float16
    whole = touched(path, lora_alpha=4)
    half = touched(changed_model(path, lambda _, value: value.astype(short)), lora_alpha=4)
    assert (half.path.plain, half.path.share_prefix, half.path.narrow) == (False, True, True)
    seen = set()
    for module in half.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    arrays = BatchArrays.of(collate(examples()), half.device)
    expected = sums_and_gradients(whole, lambda model: loss_sums(model, whole.path, arrays))
    found = sums_and_gradients(half, lambda model: loss_sums(model, half.path, arrays))
    assert seen == {dtype}
    assert found[0] == pytest.approx(expected[0], rel=1e-2)
    for value in trained(half.model).values():
        assert value.dtype == value.grad.dtype == torch.float32
    whole_gradient, half_gradient = (np.concatenate([g.ravel() for g in f[2].values()]) for f in (expected, found))
    assert np.linalg.norm(half_gradient - whole_gradient) < 0.05 * np.linalg.norm(whole_gradient)


@pytest.mark.parametrize("config", [{}, {"grad_checkpoint": True}])
def test_a_prefix_that_several_parts_share_is_computed_once_a_step(make_model, monkeypatch, config):
    from mlx_lora.backends.torch import loss as module

    backend = touched(make_model("llama"), **config)
    step, rows = backend._training, examples()
    parts = [collate(rows[:1], prefix=16), collate(rows[1:3], prefix=16), collate(rows[3:], prefix=16)]

    def gradients(batches):
        for parameter in step.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        sums = step._backward([BatchArrays.of(batch, backend.device) for batch in batches])
        return sums, {name: parameter.grad.clone() for name, parameter in step.parameters.items()}

    expected_sums, expected = gradients([collate(rows, share_prefix=False)])
    calls = []
    real = module._prefix_of
    monkeypatch.setattr(module, "_prefix_of", lambda *given: calls.append(given) or real(*given))
    sums, found = gradients(parts)
    assert len(calls) == 1
    torch.testing.assert_close(sums, expected_sums, rtol=1e-5, atol=0)
    for name, value in expected.items():
        assert (found[name] - value).norm() < 1e-5 * value.norm(), name
