"""What the torch backend makes of models as they are published: whole or not, quantized, of other architectures."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from backend_fixtures import BACKENDS, changed_model, examples, fresh, steps

from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN, resolve_model

TINY = BUILT_IN["builtin/tiny-lumen"]


def without(path, name):
    """A copy of a model directory that lacks one weight."""
    import mlx.core as mx

    copy = changed_model(path, lambda _, value: value)
    weights = mx.load(str(copy / "model.safetensors"))
    weights.pop(name)
    mx.save_safetensors(str(copy / "model.safetensors"), weights)
    return copy


def test_a_missing_weight_is_no_random_one():
    """Transformers would draw it."""
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=rf"1 of its weights are missing: {name}"):
        BACKENDS["torch"](resolve_model(str(without(TINY, name))))


def from_transformers(directory, model_type, **config):
    """A model directory as transformers writes it, with random weights and the tiny base's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, directory / name)
    return directory


SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 1024, "bos_token_id": 1018, "eos_token_id": 1022, "pad_token_id": 0}


def test_the_base_drops_nothing(tmp_path):
    """Seed-OSS has a dropout in each layer, by a name of its own, which mlx-lm leaves out."""
    path = from_transformers(tmp_path, "seed_oss", head_dim=16, residual_dropout=0.5, **SMALL)
    one, two = (fresh("torch", path).train_step([collate(examples())], step, 1e-3).loss for step in (1, 2))
    assert one == two == pytest.approx(fresh("mlx", path).train_step([collate(examples())], 1, 1e-3).loss, rel=1e-5)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_float16_is_not_trained_in_full(make_model, name):
    import mlx.core as mx

    half = changed_model(make_model("llama"), lambda _, value: value.astype(mx.float16))
    with pytest.raises(UserError, match="float16 is too narrow to train"):
        fresh(name, half, fine_tune_type="full")


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_target_modules_are_of_no_matter_in_full(make_model, name):
    backend = fresh(name, make_model("llama"), fine_tune_type="full", num_layers=1, lora_target_modules=["wq"])
    assert len(steps(backend, [1, 2])) == 2


def test_layers_that_are_elsewhere_are_one_sentence(tmp_path):
    path = from_transformers(tmp_path, "gpt2", n_embd=64, n_head=4, n_layer=2, vocab_size=1024)
    with pytest.raises(UserError, match="the layers of a GPT2LMHeadModel are not where"):
        fresh("torch", path, lora_target_modules=["c_attn"])


def test_experts_that_the_backends_name_differently_are_one_sentence(tmp_path):
    """LoRA beside experts goes over; trained in full, the experts' own weights have other names."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    path = from_transformers(tmp_path, "mixtral", **experts, **SMALL)
    file = tmp_path / "state.safetensors"
    ours = fresh("torch", path)
    steps(ours, [1, 2])
    ours.save_state(file)
    theirs = fresh("mlx", path)
    theirs.load_state(file)
    assert steps(theirs, [3]) == pytest.approx(steps(ours, [3]), rel=1e-5)
    for one, other in (("torch", "mlx"), ("mlx", "torch")):
        fresh(one, path, fine_tune_type="full").save_state(file)
        with pytest.raises(UserError, match=r"does not fit this run .* continue with the backend that wrote it"):
            fresh(other, path, fine_tune_type="full").load_state(file)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_an_answer_ends_with_the_tokenizers_end_where_no_config_names_one(name):
    """Transformers' own default for Llama is token 2."""
    path = changed_model(TINY, lambda _, value: value)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "token_id" not in k}))
    cut, whole = (BACKENDS[name](resolve_model(str(p))) for p in (path, TINY))
    prompt = [cut.tokenizer.encode("shape: convergence")]
    assert cut.generate(prompt, 40, 0.0, 0) == whole.generate(prompt, 40, 0.0, 0)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1022, 1023]}))
    assert BACKENDS[name](resolve_model(str(path))).generate(prompt, 40, 0.0, 0) == cut.generate(prompt, 40, 0.0, 0)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_answers_where_layers_are_checkpointed(make_model, name):
    path = make_model("llama")
    plain, checkpointed = fresh(name, path), fresh(name, path, grad_checkpoint=True)
    prompts = [plain.tokenizer.encode(text) for text in ("shape: convergence", "a", "a")]
    for some in (prompts, prompts[1:]):
        assert checkpointed.generate(some, 12, 0.0, 0) == plain.generate(some, 12, 0.0, 0)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_base_in_four_bits_has_the_gradient_of_its_values(kind):
    """On some CPUs bitsandbytes packs weights at their first use, and computes no gradient through them any more."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit

    quantized, plain = (BACKENDS["torch"](resolve_model(str(TINY)), load_in_4bit=four) for four in (True, False))
    modules = dict(plain.model.named_modules())
    for name, module in quantized.model.named_modules():
        if type(module).__name__ == "Linear4bit":
            modules[name].weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    assert quantized.evaluate(collate(examples())) == pytest.approx(plain.evaluate(collate(examples())), rel=1e-5)
    results = []
    for backend in (quantized, plain):
        backend.attach_lora(TrainingConfig(lora_rank=4, lora_dropout=0.0, fine_tune_type=kind))
        found = [backend.train_step([collate(examples(seed=n))], n, 3e-3) for n in (1, 2, 3)]
        results.append([(result.loss, result.grad_norm) for result in found])
    for one, other in zip(*results, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_a_fresh_dora_changes_nothing_in_half_precision():
    """PEFT would divide by lengths rounded to bfloat16."""
    import mlx.core as mx

    path = changed_model(TINY, lambda _, value: value.astype(mx.bfloat16))
    plain, dora = BACKENDS["torch"](resolve_model(str(path))), fresh("torch", path, fine_tune_type="dora")
    assert dora.evaluate(collate(examples())) == pytest.approx(plain.evaluate(collate(examples())), rel=1e-4)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_a_base_that_mlx_quantized_is_not_trained_in_full(name, tmp_path):
    """Torch holds it unquantized, but what it would learn fits no quantized base."""
    from mlx_lm import convert

    convert(str(TINY), str(tmp_path / "q4"), quantize=True, q_bits=4, q_group_size=64)
    with pytest.raises(UserError, match="a quantized base cannot be trained in full"):
        fresh(name, tmp_path / "q4", fine_tune_type="full")


def test_a_model_without_flash_attention_keeps_its_own(monkeypatch):
    from mlx_lora.backends.torch import model_loading

    model = BACKENDS["torch"](resolve_model(str(TINY))).model.to(torch.bfloat16)
    before = model.config._attn_implementation
    monkeypatch.setattr(model_loading, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(type(model), "_supports_flash_attn", False)
    model_loading.attend_fast(model, torch.device("cuda"))
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_auto_names_the_same_modules_on_both_backends(make_model, architecture):
    path = make_model(architecture)
    backends = [fresh(name, path, lora_target_modules="auto") for name in BACKENDS]
    assert [backend.coverage for backend in backends] == ["2 of 2 layers, 7 modules"] * 2
    keys = [backend._adapter["lora_parameters"]["keys"] for backend in backends]
    assert keys[0] == keys[1]
