"""Answers on torch after a common prefix that goes through the model once."""

from __future__ import annotations

import pytest
import torch
from backend_fixtures import BACKENDS, sharp_model
from transformers import AutoConfig, AutoModelForCausalLM

from mlx_lora.backends.torch import generation
from mlx_lora.models.resolve import resolve_model

COMMON = [(7 * i * i + 3) % 1000 for i in range(30)]
PROMPTS = [COMMON + [(11 * i * k + k) % 1000 for i in range(1, 4 + 2 * k)] for k in range(1, 6)]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "eos_token_id": None,
    "bos_token_id": None,
}
# Positions by the mask, by a table, by biases of the mask; by biases of the place; windows; no KV cache.
KINDS = {
    "qwen3": (True, {"head_dim": 16}),
    "gpt2": (True, {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "bloom": (True, {"n_layer": 2, "n_head": 4}),
    "mpt": (False, {"d_model": 64, "n_layers": 2, "n_heads": 4}),
    "mistral": (False, {"sliding_window": 16}),
    "mamba": (False, {"state_size": 8}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_model_shares_a_prefix_where_its_answers_are_the_same(name):
    shares, config = KINDS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SMALL, **config})).eval()
    with torch.no_grad():
        assert generation.can_share(model) is shares
        if shares:
            (whole, start), (after, _) = (
                generation.generated(model, PROMPTS, n, max_new_tokens=8, do_sample=False) for n in (0, len(COMMON))
            )
            assert torch.equal(whole[:, start:], after[:, start:])
            assert len({tuple(row) for row in whole[:, start:].tolist()}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_without_a_prefix(make_model, monkeypatch, temperature):
    backend = BACKENDS["torch"](resolve_model(str(sharp_model(make_model("llama")))))
    tokens = []
    backend.model.get_decoder().register_forward_pre_hook(
        lambda module, given, options: tokens.append(options["input_ids"].shape), with_kwargs=True
    )
    answers = backend.generate(PROMPTS, 10, temperature, 3)
    assert backend._shares
    own = max(map(len, PROMPTS)) - len(COMMON)
    assert tokens[-11:-9] == [(1, len(COMMON)), (len(PROMPTS), own)]
    monkeypatch.setattr(backend, "_shares", False)
    assert answers == backend.generate(PROMPTS, 10, temperature, 3)
    assert tokens[-10] == (len(PROMPTS), max(map(len, PROMPTS)))
    # Neither identical prompts nor one that begins with another lose their last token.
    monkeypatch.setattr(backend, "_shares", True)
    for prompts in ([COMMON] * 2, [COMMON, [*COMMON, 5]]):
        assert backend.generate(prompts, 5, 0.0, 0) == [backend.generate([p], 5, 0.0, 0)[0] for p in prompts]
