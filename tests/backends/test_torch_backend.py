"""The torch backend by itself: what it loads, refuses, draws and answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from backend_fixtures import BACKENDS, changed_model, examples, fresh, steps
from transformers import AutoConfig, AutoModelForCausalLM

from mlx_lora.backends.adapter_format import initial_a
from mlx_lora.backends.registry import choose
from mlx_lora.backends.torch.device import GPU_FLOPS, SECONDS_A_LINEAR, pass_cost
from mlx_lora.backends.torch.lora import trained
from mlx_lora.config import TrainingConfig
from mlx_lora.data.collate import collate
from mlx_lora.data.parts import PassCost
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN, resolve_model

TINY = BUILT_IN["builtin/tiny-lumen"]


def test_a_fresh_adapter_is_the_hosts_and_changes_nothing(make_model):
    path, tokens = make_model("llama"), torch.arange(30)[None]
    base = BACKENDS["torch"](resolve_model(str(path)))
    with torch.no_grad():
        before = base.model(tokens).logits
        backend = fresh("torch", path, seed=3)
        backend.model.eval()
        assert torch.equal(backend.model(tokens).logits, before)
    name = "model.layers.1.self_attn.v_proj.lora_a"
    value = trained(backend.model)[name].detach().numpy()
    np.testing.assert_array_equal(value.T, initial_a(3, name, value.T.shape, 64))
    assert backend.model.model.layers[0].self_attn.q_proj.scaling == {"default": 8.0}


def test_accumulation_equals_one_large_batch(make_model):
    path, rows = make_model("llama"), examples(6)
    whole, parts = fresh("torch", path), fresh("torch", path)
    for step in (1, 2, 3):
        one = whole.train_step([collate(rows)], step, 1e-2)
        many = parts.train_step([collate(rows[:1]), collate(rows[1:3]), collate(rows[3:])], step, 1e-2)
        assert many.loss == pytest.approx(one.loss, rel=1e-5)
        assert many.plain_loss == pytest.approx(one.plain_loss, rel=1e-5)
        assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


@pytest.mark.slow
def test_the_compiled_step_is_the_plain_one(make_model):
    """With a prefix and checkpointing, over batches of several shapes; what cannot compile is one sentence."""
    path = make_model("qwen3")
    plain = steps(fresh("torch", path, grad_checkpoint=True), range(1, 6))
    assert steps(fresh("torch", path, grad_checkpoint=True, torch_compile=True), range(1, 6)) == pytest.approx(plain)


def test_what_cannot_compile_is_one_sentence(make_model, monkeypatch):
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    backend = fresh("torch", make_model("llama", intermediate_size=136), torch_compile=True)
    with pytest.raises(UserError, match=r"install a C\+\+ compiler, or leave it out"):
        steps(backend, [1])


def test_dropout_follows_from_seed_and_step(make_model):
    path, found = make_model("llama"), []
    for numbers in ((1, 2), (1, 2), (1, 3)):
        backend = fresh("torch", path, lora_dropout=0.5)
        for step in numbers:
            backend.train_step([collate(examples())], step, 1e-2)
            backend.evaluate(collate(examples()))  # evaluating changes nothing random
        found.append(trained(backend.model)["model.layers.0.self_attn.q_proj.lora_b"].detach().numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(found[0] - found[2]).max() > 0


def test_a_loss_that_is_no_number_changes_nothing(make_model, tmp_path):
    backend = fresh("torch", make_model("llama"))
    steps(backend, [1, 2])
    backend.save_state(tmp_path / "before.safetensors")
    rows = examples()
    rows[0].weight = float("nan")
    assert np.isnan(backend.train_step([collate(rows)], 3, 1e-2).loss)
    backend.save_state(tmp_path / "after.safetensors")
    assert (tmp_path / "before.safetensors").read_bytes() == (tmp_path / "after.safetensors").read_bytes()


def test_a_base_in_four_bits_learns(make_model, tmp_path):
    """NF4 by bitsandbytes: near the whole base, smaller, and gone on with from its own adapter."""
    pytest.importorskip("bitsandbytes")
    whole = BACKENDS["torch"](resolve_model(str(TINY)))
    backend = BACKENDS["torch"](resolve_model(str(TINY)), load_in_4bit=True)
    kinds = {type(module).__name__ for module in backend.model.modules()}
    assert "Linear4bit" in kinds
    assert backend.model.get_memory_footprint() < 0.5 * whole.model.get_memory_footprint()
    config = TrainingConfig(model_name=str(TINY), lora_rank=4, lora_dropout=0.0, load_in_4bit=True)
    backend.attach_lora(config)
    losses = [backend.train_step([collate(examples())], n, 3e-3).loss for n in range(1, 9)]
    assert losses[-1] < losses[0]
    backend.save_adapter(tmp_path, resolve_model(str(TINY)))
    again = BACKENDS["torch"](resolve_model(str(TINY)), load_in_4bit=True)
    again.load_adapter(tmp_path)
    assert again.evaluate(collate(examples())) == pytest.approx(backend.evaluate(collate(examples())), rel=1e-5)
    again = BACKENDS["torch"](resolve_model(str(TINY)), load_in_4bit=True)
    with pytest.raises(UserError, match="a quantized base cannot be trained in full"):
        again.attach_lora(TrainingConfig(fine_tune_type="full"))


def test_mlx_quantizes_on_the_way_too(make_model):
    import mlx.nn as nn

    backend = BACKENDS["mlx"](resolve_model(str(make_model("llama"))), load_in_4bit=True)
    assert isinstance(backend.model.model.layers[0].self_attn.q_proj, nn.QuantizedLinear)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_begins_from_another_adapter(make_model, tmp_path, name):
    path, model = make_model("llama"), None
    first = fresh("torch", path)
    steps(first, range(1, 6))
    model = resolve_model(str(path))
    first.save_adapter(tmp_path, model)
    second = fresh(name, path, init_adapter=str(tmp_path))
    assert second.evaluate(collate(examples())) == pytest.approx(first.evaluate(collate(examples())), rel=1e-5)
    with pytest.raises(UserError, match="its lora_parameters differs from this run's config"):
        fresh(name, path, init_adapter=str(tmp_path), lora_rank=8)


def test_sampled_answers_follow_from_the_seed(make_model):
    backend = BACKENDS["torch"](resolve_model(str(make_model("llama"))))
    prompts = [backend.tokenizer.encode(text) for text in ("shape: convergence", "a", "what is it like now?")]
    one, two, other = (backend.generate(prompts, 12, 1.0, seed) for seed in (1, 1, 2))
    assert one == two != other
    # A prompt's greedy answer does not depend on those beside it.
    assert backend.generate(prompts, 12, 0.0, 0) == [backend.generate([p], 12, 0.0, 0)[0] for p in prompts]


def test_what_it_cannot_load_is_one_sentence(make_model, tmp_path):
    path = changed_model(TINY, lambda _, value: value)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "nemotron-nas-unknown"}))
    with pytest.raises(UserError, match="transformers cannot load this model"):
        BACKENDS["torch"](resolve_model(str(path)))
    with pytest.raises(UserError, match=r"no wq; it has down_proj, .*v_proj"):
        fresh("torch", TINY, lora_target_modules=["wq"])
    (tmp_path / "adapter_config.json").write_text("{}")
    shutil.copy(TINY / "model.safetensors", tmp_path / "adapters.safetensors")
    with pytest.raises(UserError, match="does not fit its base model"):
        BACKENDS["torch"](resolve_model(str(TINY))).load_adapter(tmp_path)


def test_which_backend_is_chosen(monkeypatch):
    # The package has a function of the same name.
    module = sys.modules["mlx_lora.backends.registry"]

    def machine(packages, cuda=False, system="linux", processor="x86_64"):
        found = {name: object() for name in packages}
        monkeypatch.setattr(module.importlib.util, "find_spec", found.get)
        monkeypatch.setattr(module, "has_cuda", lambda: cuda)
        monkeypatch.setattr(module.sys, "platform", system)
        monkeypatch.setattr(module.platform, "machine", lambda: processor)

    torch_packages = module.TORCH_PACKAGES
    machine(["mlx", *torch_packages], cuda=True)
    assert choose() == module.Choice("torch", "there is a CUDA device")
    assert choose("mlx").name == "mlx"
    machine(["mlx", *torch_packages], cuda=False)
    assert choose().name == "mlx"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert choose().name == "torch"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    machine(["mlx", *torch_packages], cuda=True)
    monkeypatch.setenv("MLX_RANK", "0")
    assert choose().name == "mlx"
    monkeypatch.delenv("MLX_RANK")
    machine(["mlx", *torch_packages], cuda=True, system="darwin", processor="arm64")
    assert choose() == module.Choice("mlx", "this is Apple silicon")
    machine(torch_packages)
    assert choose().name == "torch"
    with pytest.raises(UserError, match="use --backend torch"):
        choose("mlx")
    machine(["mlx", "torch", "transformers"], cuda=True)
    assert choose().name == "mlx"
    for nothing in (lambda: choose("torch"), lambda: machine([]) or choose()):
        with pytest.raises(UserError, match=r"pip install 'mlx-lora\[torch\]'"):
            nothing()


@pytest.mark.parametrize("size", ["2", "many"])
def test_processes_that_nobody_launched_are_one_sentence(refused, size):
    environment = {**os.environ, "WORLD_SIZE": size}
    options = ("--backend", "torch", "--target", "builtin/tiny-lumen", "--prompt", "x")
    assert "launch it with torchrun, or unset WORLD_SIZE" in refused("generate", *options, env=environment)


def test_a_torch_that_does_not_load_is_one_sentence(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    code = "from mlx_lora.backends.registry import has_cuda; has_cuda()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert "UserError: torch is installed here and does not load (libcudart" in done.stderr


@pytest.mark.parametrize("broken", ["peft", "bitsandbytes"])
def test_a_library_that_does_not_load_is_one_sentence(tmp_path, broken, eisv_data, command):
    (tmp_path / broken).mkdir()
    (tmp_path / broken / "__init__.py").write_text("raise ImportError('no such symbol')")
    options = ("--data", eisv_data, "--out", tmp_path / "run", "--backend", "torch", "--set", f"model_name={TINY}")
    done = command("train", *options, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "a library of the torch backend does not load (no such symbol); `mlx-lora doctor`" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cost_of_a_pass_follows_from_the_model_on_a_gpu_alone(make_model):
    backend = fresh("torch", make_model("llama"))
    assert backend.pass_cost == pass_cost(backend.model, torch.device("cpu")) == PassCost()
    linear = 2 * 7 + 1
    with torch.device("meta"):
        config = AutoConfig.for_model("llama", num_hidden_layers=2, hidden_size=4096, intermediate_size=4096)
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = round(linear * SECONDS_A_LINEAR * GPU_FLOPS / (4 * parameters))
    assert pass_cost(model, torch.device("cuda")) == PassCost(tokens, tokens)
    # A base with more to compute in each pass has more of it in the same time: the overhead is fewer tokens.
    assert 64 < tokens < pass_cost(backend.model, torch.device("cuda")).part
