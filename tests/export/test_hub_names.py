"""Bases whose files have other names and shapes than mlx-lm's modules: fused in the files' own."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from run_fixtures import in_the_hubs_form, make_run, mlx_logits, one_by_one

from mlx_lora.errors import UserError
from mlx_lora.export.fuse import fuse
from mlx_lora.export.hub_names import HubNames
from mlx_lora.export.merged_weights import check_readable
from mlx_lora.export.source import read_source
from mlx_lora.export.tensors import read_header
from mlx_lora.models.resolve import BUILT_IN

TOKENS = list(range(5, 45))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def transposed_pairs(weights):
    """Llama 4's way: gate and up of all experts are one tensor, the input first."""
    made = {}
    for name, value in weights.items():
        if name.endswith("experts.gate_proj.weight"):
            pair = mx.concatenate([value, weights[name.replace("gate_proj", "up_proj")]], axis=1)
            made[name.replace("gate_proj.weight", "gate_up_proj")] = pair.swapaxes(1, 2)
        elif name.endswith("experts.down_proj.weight"):
            made[name.removesuffix(".weight")] = value.swapaxes(1, 2)
        elif not name.endswith("experts.up_proj.weight"):
            made[name] = value
    return made


def wrapped(weights):
    """Qwen3.5's: another prefix, norms without their one, convolutions with the channels last."""
    made = {}
    for name, value in weights.items():
        if name.endswith(("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")):
            value = value - 1
        value = value.swapaxes(1, 2) if "conv1d" in name else value
        made[name.replace("language_model.model.", "model.language_model.")] = value
    # What mlx-lm does not read stays.
    return made | {"model.visual.patch_embed.proj.weight": mx.ones((8, 4)), "mtp.fc.weight": mx.ones((64, 128))}


QWEN3_5 = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "tie_word_embeddings": False,
}
LLAMA4 = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "intermediate_size_mlp": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "use_qk_norm": True,
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "tie_word_embeddings": False,
}
# Of each: changes to the config, mlx-lm's names into the hub's, modules, and how many of the files' tensors they are.
BASES = {
    "qwen3_moe": ({}, one_by_one, ALL, 2 * (4 + 3 * 4)),
    "qwen3_5": (
        {"text_config": {**QWEN3_5, "model_type": "qwen3_5_text"}},
        wrapped,
        [*ALL, "in_proj_qkv", "out_proj"],
        12,
    ),
    "llama4": ({"text_config": {**LLAMA4, "model_type": "llama4_text"}}, transposed_pairs, ALL, 4 * (4 + 3 + 2)),
}


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("training", [{}, {"fine_tune_type": "full", "num_layers": 1}], ids=["lora", "full"])
def test_a_base_keeps_its_files_names_and_shapes(make_model, tmp_path, kind, training):
    config, change, modules, count = BASES[kind]
    base = make_model(kind, **config)
    before = in_the_hubs_form(base, change)
    run = make_run(base, tmp_path / "run", lora_target_modules=modules, **training)
    report = fuse(str(run), tmp_path / "fused")
    assert [check.name for check in report.checks if not check.passed] == []
    after = mx.load(str(tmp_path / "fused" / "model.safetensors"))
    assert {name: value.shape for name, value in after.items()} == {name: v.shape for name, v in before.items()}
    changed = {name for name, value in after.items() if not bool(mx.array_equal(value, before[name]))}
    assert len(changed) == count or (training and len(changed) > 5)
    assert not any("visual" in name or "mtp" in name or "embed" in name for name in changed)
    model, _ = load_model(tmp_path / "fused")
    fused, wanted = np.array(model(mx.array([TOKENS]))[0]), mlx_logits(run, TOKENS)
    assert np.abs(fused - wanted).max() < 1e-3 * np.abs(wanted).max()
    plain, _ = load_model(base)
    assert np.abs(np.array(plain(mx.array([TOKENS]))[0]) - wanted).max() > 0.05 * np.abs(wanted).max()


def names(sanitize):
    stored = read_header(BUILT_IN["builtin/tiny-lumen"] / "model.safetensors")
    chosen = {name: tensor for name, tensor in stored.items() if name.startswith("model.layers.0.mlp")}
    return HubNames("base", {}, set(), sanitize, chosen)


GATE, UP = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"


def test_changes_go_back_to_where_the_numbers_were():
    made = names(lambda files: {"both.weight": mx.concatenate([files[GATE], files[UP]]).T})
    blank = {name: mx.zeros(made.stored[name].shape) for name in (GATE, UP)}
    change = mx.random.normal(made.sanitize(blank)["both.weight"].shape)
    found = made.taken_back({"both.weight": change})
    assert set(found) == {GATE, UP}
    assert bool(mx.array_equal(mx.concatenate([found[GATE], found[UP]]).T, change))
    assert made.taken_back({}) == {}


@pytest.mark.parametrize(
    ("sanitize", "said"),
    [
        (lambda files: {"a.weight": files[GATE] * 0.5}, r"mlx-lm computes a\.weight from numbers of the files"),
        (lambda files: {"a.weight": files[GATE] + files[UP]}, r"mlx-lm computes a\.weight from numbers of the files"),
        (
            lambda files: {"a.weight": mx.stack([files[GATE], files[GATE]])},
            r"several modules of mlx-lm share the weights model\.layers\.0\.mlp\.gate_proj\.weight",
        ),
    ],
)
def test_what_is_no_selection_is_refused(sanitize, said):
    made = names(sanitize)
    blank = {name: mx.zeros(tensor.shape) for name, tensor in made.stored.items()}
    with pytest.raises(UserError, match=said):
        made.taken_back({"a.weight": mx.ones(sanitize(blank)["a.weight"].shape)})


def test_weights_that_another_program_quantized_are_refused_by_its_name(make_model):
    source = read_source(str(make_model()))
    source.config["quantization_config"] = {"quant_method": "mxfp4"}
    with pytest.raises(UserError, match="experts is quantized by mxfp4, which cannot be changed here"):
        check_readable(source, "experts", None)


def test_an_adapter_of_another_model(make_model, tmp_path):
    base = make_model("qwen3_moe")
    in_the_hubs_form(base, one_by_one)
    run = make_run(base, tmp_path / "run")
    other = {"model": str(make_model("gpt2", **GPT2)), "base_fingerprint": None}
    for name in ("run.json", "adapter_config.json"):
        (run / name).write_text(json.dumps({**json.loads((run / name).read_text()), **other}))
    with pytest.raises(UserError, match=r"has no model\.layers\.\d\.self_attn"):
        fuse(str(run), tmp_path / "fused")


GPT2 = {"n_ctx": 512, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512, "layer_norm_epsilon": 1e-5}
