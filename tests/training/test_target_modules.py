"""Which modules are trained: the default, ``auto``, and ``auto`` where the default's four are not in every layer."""

from __future__ import annotations

import json

import pytest
import yaml

from mlx_lora.backends.adapter_format import coverage, matching_keys, settled_modules
from mlx_lora.config import TrainingConfig, load_config
from mlx_lora.errors import UserError
from mlx_lora.models.parameters import trainable_parameters

FOUR = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
ATTENTION, RECURRENT = [*FOUR, "mlp.up_proj"], ["linear_attn.in_proj", "mlp.up_proj"]
HYBRID = [RECURRENT, RECURRENT, RECURRENT, ATTENTION]


@pytest.fixture(scope="module")
def hybrid(realdata, make_model):
    configs = json.loads((realdata / "architectures.json").read_text())
    return make_model(**configs["qwen3_next"])


def test_the_default_stays_where_every_layer_has_it():
    config = TrainingConfig()
    assert settled_modules(config, [ATTENTION] * 3) == (config, [])
    assert config.to_dict()["lora_target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert type(config.to_dict()["lora_target_modules"]) is list


def test_auto_applies_where_the_default_is_not_in_every_layer():
    settled, notes = settled_modules(TrainingConfig(), HYBRID)
    assert settled.lora_target_modules == "auto"
    assert len(notes) == 1
    assert "q_proj, k_proj, v_proj, o_proj are in 1 of this base's 4 layers" in notes[0]


def test_named_modules_are_not_touched(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("lora_target_modules: [q_proj, k_proj, v_proj, o_proj]\n")
    for config in (load_config(file), TrainingConfig(lora_target_modules=["q_proj"])):
        assert settled_modules(config, HYBRID) == (config, [])
    file.write_text("lora_rank: 4\n")
    assert settled_modules(load_config(file), HYBRID)[0].lora_target_modules == "auto"
    assert load_config(None, ["lora_target_modules=auto"]).lora_target_modules == "auto"
    with pytest.raises(UserError, match="must be a list of names"):
        load_config(None, ["lora_target_modules=all"])


def test_keys_and_coverage():
    keys = matching_keys(HYBRID, "auto")
    assert keys == sorted({*ATTENTION, *RECURRENT})
    with pytest.raises(UserError, match="no linear modules"):
        matching_keys([[], []], "auto")

    def said(keys, layers=4):
        return coverage(HYBRID, {"num_layers": layers, "lora_parameters": {"keys": keys}})

    assert said(keys) == "4 of 4 layers, 6 modules"
    assert said(FOUR) == "1 of 4 layers, 4 modules"
    assert said(FOUR[:1], 2) == "1 of 4 layers, 1 module"
    assert said([], 2) == "2 of 4 layers, all weights"


def test_auto_is_counted_as_all_seven():
    base = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    }
    seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    counts = {trainable_parameters(base, TrainingConfig(lora_target_modules=names)) for names in ("auto", seven)}
    assert counts == {3 * 16 * (4 * (8 + 8) + 3 * (8 + 16))}


@pytest.mark.slow
def test_a_hybrid_base_trains_whole_and_says_so(command, hybrid, eisv_data, tmp_path):
    out, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(f"model_name: {hybrid}\nmax_steps: 1\nbatch_size: 2\ngradient_accumulation_steps: 1\n")
    arguments = ("train", "--config", config, "--data", eisv_data, "--out", out, "--set", "eval_steps=100")
    shown = json.loads(command(*arguments, "--dry-run", "--json").stdout)
    assert shown["trained_modules"] == "4 of 4 layers, 18 modules"
    assert sum("lora_target_modules is auto" in note for note in shown["notes"]) == 1
    assert command(*arguments, "--json").returncode == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["lora_target_modules"] == "auto"
    assert "4 of 4 layers, 18 modules" in (out / "report.html").read_text()
    # The same command, and the config as it was resolved, are the same run.
    assert command(*arguments, "--json").returncode == 0
    assert command("train", "--config", out / "config.yaml", "--json").returncode == 0
