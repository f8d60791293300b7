"""Multimodal bases: PEFT's names are those of the class in transformers, mlx-lm's are its own."""

from __future__ import annotations

import importlib.util
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from run_fixtures import make_run, mlx_logits, sharpen

from mlx_lora.errors import UserError
from mlx_lora.export.peft import comparison, module_names
from mlx_lora.export.peft.adapter_import import import_peft
from mlx_lora.export.peft.export import export_peft
from mlx_lora.export.peft.module_names import class_prefix, is_same_part
from mlx_lora.export.peft.settings import is_selected
from mlx_lora.models.resolve import BUILT_IN, resolve_model

TOKENS = [5, 17, 300, 42, 7, 811, 64, 12, 99, 250]
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "sliding_window": 512,
    "query_pre_attn_scalar": 16,
}
MLX, CLASS = "language_model.model.layers", "model.language_model.layers"
without_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")


@pytest.fixture(scope="module")
def gemma(make_model):
    """A Gemma 3 with the names of the hub's files; no vision tower, which mlx-lm does not read."""
    return sharpen(make_model("gemma3", text_config={**TEXT, "model_type": "gemma3_text"}, **TEXT))


@pytest.fixture(scope="module")
def in_class_names(gemma, tmp_path_factory):
    """A run, and its adapter as PEFT writes it for Gemma3ForConditionalGeneration."""
    folder = tmp_path_factory.mktemp("gemma")
    run = make_run(gemma, folder / "run")
    (folder / "peft").mkdir()
    tensors = {}
    for name, value in mx.load(str(run / "adapters.safetensors")).items():
        path, _, part = name.rpartition(".")
        ending = {"lora_a": "lora_A", "lora_b": "lora_B"}[part]
        tensors[f"base_model.model.{path.replace(MLX, CLASS)}.{ending}.weight"] = mx.contiguous(value.T)
    mx.save_safetensors(str(folder / "peft" / "adapter_model.safetensors"), tensors)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "base_model_name_or_path": str(gemma)}
    config |= {"target_modules": rf"{CLASS}\.\d+\.self_attn\.(q|k|v|o)_proj".replace(".layers", r"\.layers")}
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(config))
    return run, folder / "peft"


def test_names_of_the_class_are_imported(in_class_names, tmp_path, monkeypatch):
    """Case vision-model-names-in-peft."""
    monkeypatch.setattr(comparison, "has_peft", lambda: False)
    run, directory = in_class_names
    report = import_peft(directory, tmp_path / "again")
    assert report.verdict == "verified"
    assert "PEFT itself was not asked" in report.notes[0]
    np.testing.assert_array_equal(mlx_logits(tmp_path / "again", TOKENS), mlx_logits(run, TOKENS))


def test_a_vision_tower_s_adapter_is_refused(in_class_names, tmp_path):
    directory = tmp_path / "peft"
    shutil.copytree(in_class_names[1], directory)
    file = directory / "adapter_model.safetensors"
    moved = {name.replace(CLASS, "model.vision_tower.encoder.layers"): v for name, v in mx.load(str(file)).items()}
    mx.save_safetensors(str(file), moved)
    config = directory / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": None}))
    with pytest.raises(UserError, match=r"is not in the text layers of .* which are all that mlx-lm runs"):
        import_peft(directory, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


@without_torch
def test_names_that_cannot_be_known_are_refused(in_class_names, refused, tmp_path):
    sentence = refused("export", "peft", "--run", in_class_names[0], "--out", tmp_path / "peft")
    assert "this base is multimodal, and PEFT names its modules as the class in transformers does" in sentence
    assert "pip install 'mlx-lora[torch]'" in sentence
    assert list(tmp_path.iterdir()) == []


def test_files_in_the_order_of_the_class_tell_its_names(make_model, tmp_path, monkeypatch):
    """Without torch: newer checkpoints have the class's names in their files."""
    monkeypatch.setattr(module_names, "has_torch", lambda: False)
    base = tmp_path / "base"
    rope = {"rope_theta": 1e4, "rope_type": "default", "llama_4_scaling_beta": 0.1}
    rope |= {"original_max_position_embeddings": 1024}
    text = {**TEXT, "model_type": "ministral3", "rms_norm_eps": 1e-6, "rope_parameters": rope}
    shutil.copytree(make_model("mistral3", text_config=text, **TEXT), base)
    file = base / "model.safetensors"
    moved = {
        name.replace("language_model.model.", "model.language_model."): v for name, v in mx.load(str(file)).items()
    }
    mx.save_safetensors(str(file), moved, metadata={"format": "pt"})
    paths = {f"{MLX}.0.self_attn.q_proj": (64, 64)}
    in_files = {name.removesuffix(".weight"): tuple(v.shape) for name, v in moved.items() if v.ndim == 2}
    names, known = module_names.transformers_names(resolve_model(str(base)), paths, in_files)
    assert names == {f"{MLX}.0.self_attn.q_proj": f"{CLASS}.0.self_attn.q_proj"}
    assert known == set(in_files)


@pytest.mark.parametrize(
    ("prefix", "text", "expected"),
    [
        ("model.layers", "model.layers", True),
        (CLASS, MLX, True),
        ("model.layers", MLX, True),
        ("layers", MLX, True),
        (MLX, "model.layers", False),
        ("model.vision_tower.encoder.layers", MLX, False),
        ("vision_tower.transformer.layers", MLX, False),
        ("model.model.layers", MLX, False),
    ],
)
def test_other_names_of_the_text_part(prefix, text, expected):
    assert is_same_part(prefix, text) is expected


def test_a_vision_tower_of_the_same_shapes_is_told_apart():
    adapted = {f"{MLX}.{layer}.self_attn.q_proj": (64, 64) for layer in range(2)}
    in_files = {**adapted, f"{MLX}.0.mlp.gate_proj": (128, 64)}
    vision = {f"model.vision_tower.layers.{layer}.self_attn.q_proj": (64, 64) for layer in range(2)}
    text = {path.replace(MLX, CLASS): shape for path, shape in in_files.items()}
    base = resolve_model("builtin/tiny-lumen")
    assert class_prefix(base, adapted, in_files, vision | text) == CLASS
    with pytest.raises(UserError, match="has more than one set of layers like"):
        class_prefix(base, adapted, adapted, vision | {path.replace(MLX, CLASS): s for path, s in adapted.items()})
    with pytest.raises(UserError, match="has no layers like"):
        class_prefix(base, {f"{MLX}.0.self_attn.q_proj": (64, 32)}, in_files, vision | text)


@pytest.fixture(scope="module")
def with_vision(tmp_path_factory):
    """A random Gemma 3 with a vision tower, as transformers saves it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    torch.manual_seed(0)
    text = Gemma3TextConfig(**TEXT, bos_token_id=1018, eos_token_id=1022, pad_token_id=1023)
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4)
    config.image_token_index, config.boi_token_index, config.eoi_token_index = 1000, 1001, 1002
    out = tmp_path_factory.mktemp("gemma3") / "base"
    Gemma3ForConditionalGeneration(config).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILT_IN["builtin/tiny-lumen"] / name, out / name)
    file = out / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 1024}))
    return out


@pytest.mark.slow
def test_peft_loads_the_export_and_computes_what_mlx_does(with_vision, peft, tmp_path):
    run = make_run(with_vision, tmp_path / "run")
    report = export_peft(run, tmp_path / "peft")
    assert report.verdict == "verified"
    assert report.notes == []
    (check,) = [check for check in report.checks if check.name == comparison.NAME]
    assert check.value < 1e-5
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    # The vision tower has modules of the same last names and shapes.
    assert not is_selected(config, "model.vision_tower.encoder.layers.0.self_attn.q_proj")
    assert is_selected(config, f"{CLASS}.0.self_attn.q_proj")
    peft(
        [
            {"action": "logits", "base": with_vision, "tokens": TOKENS, "adapter": adapter, "out": tmp_path / out}
            for adapter, out in ((tmp_path / "peft", "with.npy"), (None, "alone.npy"))
        ]
    )
    ours = mlx_logits(run, TOKENS)
    assert np.abs(np.load(tmp_path / "with.npy") - ours).max() < 1e-4
    assert np.abs(np.load(tmp_path / "alone.npy") - ours).max() > 0.1
    assert import_peft(tmp_path / "peft", tmp_path / "again").verdict == "verified"
    np.testing.assert_array_equal(mlx_logits(tmp_path / "again", TOKENS), ours)


@pytest.mark.slow
def test_an_adapter_that_peft_made(with_vision, peft, tmp_path):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model\.layers\..*\.(q|v)_proj"}
    peft(
        [
            {"action": "make", "base": with_vision, "config": settings, "out": tmp_path / "peft"},
            {"action": "logits", "base": with_vision, "adapter": tmp_path / "peft", "tokens": TOKENS}
            | {"out": tmp_path / "logits.npy"},
        ]
    )
    assert import_peft(tmp_path / "peft", tmp_path / "run").verdict == "verified"
    assert np.abs(mlx_logits(tmp_path / "run", TOKENS) - np.load(tmp_path / "logits.npy")).max() < 1e-4


@pytest.mark.slow
def test_an_adapter_that_also_takes_the_vision_tower_is_refused(with_vision, peft, tmp_path):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    peft([{"action": "make", "base": with_vision, "config": settings, "out": tmp_path / "peft"}])
    with pytest.raises(UserError, match=r"model\.vision_tower\..* is not in the text layers of"):
        import_peft(tmp_path / "peft", tmp_path / "run")
