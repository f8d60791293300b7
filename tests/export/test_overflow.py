"""Adapters whose numbers overflow: every export refuses them by name, and none leaves anything behind."""

from __future__ import annotations

import json

import mlx.core as mx
import pytest
from run_fixtures import make_run, sharpen

from mlx_lora.errors import UserError
from mlx_lora.export.fuse import fuse
from mlx_lora.export.gguf.export import export_gguf
from mlx_lora.export.gguf.lora import export_gguf_lora
from mlx_lora.export.peft.adapter_import import import_peft
from mlx_lora.export.peft.export import export_peft

EXPORTS = {"fuse": fuse, "gguf": export_gguf, "gguf-lora": export_gguf_lora, "peft": export_peft}


def scaled(base, out, factor: float):
    """A run whose matrices B are larger by a factor; weights and sums of weights stay finite up to 1e35."""
    run = make_run(base, out)
    file = out / "adapters.safetensors"
    arrays = {name: value * (factor if name.endswith("lora_b") else 1) for name, value in mx.load(str(file)).items()}
    assert all(bool(mx.all(mx.isfinite(value))) for value in arrays.values())
    mx.save_safetensors(str(file), arrays)
    return run


@pytest.fixture(scope="module")
def base(make_model):
    return sharpen(make_model("llama"))


def refuse(export, run, out) -> str:
    if export in (export_gguf, export_gguf_lora):
        pytest.importorskip("gguf")
    with pytest.raises(UserError) as caught:
        export(str(run), out / "exported")
    assert [path.name for path in out.iterdir()] == ["run"]
    return str(caught.value)


@pytest.mark.parametrize("export", EXPORTS)
def test_logits_that_overflow(base, tmp_path, export):
    # Squares of 1e30 are infinite in float32, and what is divided by them is 0.
    run = scaled(base, tmp_path / "run", 1e30)
    sentence = refuse(EXPORTS[export], run, tmp_path)
    # A GGUF's F16 is written, and so refused, before the model is asked anything.
    reason = "too large for f16, or not finite at all" if export == "gguf" else "logits are not finite or all the same"
    assert reason in sentence


@pytest.mark.parametrize("export", ["gguf-lora", "peft"])
def test_weights_that_overflow(base, tmp_path, export):
    sentence = refuse(EXPORTS[export], scaled(base, tmp_path / "run", 3e38), tmp_path)
    assert "the adapter adds inf, which is too large for the base's F32" in sentence
    assert "self_attn." in sentence


@pytest.mark.parametrize("export", ["fuse", "gguf-lora", "peft"])
def test_weights_that_overflow_in_float16(make_model, tmp_path, export):
    base = sharpen(make_model("llama"))
    file = base / "model.safetensors"
    weights = {name: value.astype(mx.float16) for name, value in mx.load(str(file)).items()}
    mx.save_safetensors(str(file), weights, metadata={"format": "pt"})
    sentence = refuse(EXPORTS[export], scaled(base, tmp_path / "run", 1e5), tmp_path)
    assert "too large for the base's F16, or not finite at all; look at how the adapter was trained" in sentence


def test_an_import_that_overflows(base, tmp_path):
    export_peft(make_run(base, tmp_path / "run"), tmp_path / "peft")
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 1e32}))
    with pytest.raises(UserError, match="logits are not finite or all the same"):
        import_peft(tmp_path / "peft", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peft", "run"]


def test_the_command_says_it_in_one_sentence(command, base, tmp_path):
    run = scaled(base, tmp_path / "run", 1e30)
    done = command("fuse", "--run", run, "--out", tmp_path / "fused")
    *plan, said = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert "logits are not finite or all the same" in said
    assert all(line.startswith("plan: ") for line in plan if line)
