"""Bad input to fuse and export gguf: one sentence, nothing half-written, nothing existing touched."""

from __future__ import annotations

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_lora.errors import UserError
from mlx_lora.export import resources, verification
from mlx_lora.export.fuse import fuse
from mlx_lora.export.gguf import export as gguf_file
from mlx_lora.export.gguf.architectures import find_architecture
from mlx_lora.export.gguf.export import export_gguf


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a run, to be spoilt."""
    return shutil.copytree(trained_run("llama", drawn=True), tmp_path / "run")


@pytest.fixture
def base(make_model, tmp_path):
    """A copy of a base model, to be spoilt."""
    return shutil.copytree(make_model("llama"), tmp_path / "base")


def both_refuse(run, tmp_path, said):
    for export in (fuse, export_gguf):
        with pytest.raises(UserError, match=said):
            export(str(run), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def change_config(base, **changes):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.slow
def test_the_commands(refused, command, run, tmp_path):
    assert "this exists already" in refused("export", "gguf", "--run", run, "--out", run)
    assert "no such type" in refused("export", "gguf", "--run", run, "--out", tmp_path / "x.gguf", "--type", "q5")
    assert "this is not a run directory" in refused("fuse", "--run", "builtin/tiny-lumen", "--out", tmp_path / "x")
    done = command("export", "gguf", "--run", run, "--out", tmp_path / "x.gguf", "--json")
    report = json.loads(done.stdout)
    assert list(report) == ["file", "checks", "verdict", "plan"]
    assert [step["step"] for step in report["plan"]] == ["convert", "run in llama.cpp", "compare in MLX"]
    assert all(step["memory_bytes"] > 0 and step["disk_bytes"] > 0 for step in report["plan"])
    assert "plan: convert: " in done.stderr
    assert report["verdict"] == "verified"
    assert set(report["checks"][0]) == {"name", "value", "limit", "passed"}
    done = command("fuse", "--run", run, "--out", tmp_path / "fused")
    assert done.returncode == 0
    assert "verified" in done.stdout


def test_a_rejected_file_ends_with_status_1(run, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from mlx_lora.cli.export.gguf import gguf

    monkeypatch.setattr(gguf_file, "content_checks", lambda *arguments: [verification.equal("tensors", 1, 2)])
    done = CliRunner().invoke(gguf, ["--run", str(run), "--out", str(tmp_path / "x.gguf")])
    assert done.exit_code == 1
    assert "rejected (tensors)" in done.output
    assert [path.name for path in tmp_path.glob("x*")] == ["x.gguf.rejected"]


def test_nothing_rejected_is_overwritten(tmp_path):
    for name in ("a.gguf.rejected", "a.gguf.rejected-2"):
        with verification.new_file(tmp_path / "a.gguf") as temporary:
            temporary.write_text("weights")
            report = verification.publish_or_reject(
                temporary, tmp_path / "a.gguf", [verification.at_most("error", float("nan"), 1.0)]
            )
        assert report.file == str(tmp_path / name)
        assert report.to_dict()["checks"][0]["value"] == "nan"


def test_a_run_that_is_not_trained(run, tmp_path):
    (run / "adapters.safetensors").unlink()
    both_refuse(run, tmp_path, "train it to the end first")


def test_a_truncated_adapter(run, tmp_path):
    file = run / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    both_refuse(run, tmp_path, "truncated or broken")


@pytest.mark.parametrize("content", ["", "[]", '{"num_layers": 2}', '{"num_layers": 2, "lora_parameters": {}}'])
def test_a_foreign_adapter_config(run, tmp_path, content):
    (run / "adapter_config.json").write_text(content)
    both_refuse(run, tmp_path, "does not describe an adapter")


def test_an_adapter_of_another_base(run, make_model, tmp_path):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "model": str(make_model("llama", hidden_size=128))}))
    both_refuse(run, tmp_path, "was trained on other weights")
    # Runs of earlier versions do not say which weights they are of.
    file = run / "adapter_config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in described.items() if key != "base_fingerprint"}))
    both_refuse(run, tmp_path, "do not fit its shape")


def test_adapter_tensors_without_a_place(run, tmp_path):
    file = str(run / "adapters.safetensors")
    weights = {name.replace("self_attn", "attention"): value for name, value in mx.load(file).items()}
    mx.save_safetensors(file, weights)
    both_refuse(run, tmp_path, "the adapter is another model's")


def test_an_adapter_that_is_not_finite(run, tmp_path):
    file = str(run / "adapters.safetensors")
    mx.save_safetensors(file, {name: value * np.inf for name, value in mx.load(file).items()})
    both_refuse(run, tmp_path, "not finite")


def test_a_full_disk_is_noticed_before(run, tmp_path, monkeypatch):
    monkeypatch.setattr(verification.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    both_refuse(run, tmp_path, "free some space")


@pytest.mark.parametrize("kind", ["gemma2", "qwen3_moe", "phi3"])
def test_other_architectures_are_named(base, tmp_path, kind):
    change_config(base, model_type=kind)
    with pytest.raises(UserError, match=f"the architecture {kind} cannot be written as GGUF yet.*llama, mistral"):
        export_gguf(str(base), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling dynamic"),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64}, "sliding window"),
        ({"sliding_window": 64}, "a sliding window of 64 tokens"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
            "window of 64",
        ),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        ({"partial_rotary_factor": 0.5}, "only 0.5 of each head is rotated"),
        ({"rms_norm_eps": "small"}, "cannot be loaded|cannot load this model|its sizes"),
    ],
)
def test_configs_that_gguf_cannot_say(base, tmp_path, changes, said):
    change_config(base, **changes)
    with pytest.raises(UserError, match=said):
        export_gguf(str(base), tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": None},
        {"sliding_window": 1 << 20},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 64},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 99},
    ],
)
def test_windows_that_change_nothing_are_no_reason(base, changes):
    config = json.loads((base / "config.json").read_text())
    assert find_architecture({**config, **changes}, "the base").name == changes.get("model_type", "llama")


def test_biases_that_llama_cpp_does_not_read(make_model, tmp_path):
    base = shutil.copytree(make_model("qwen3"), tmp_path / "base")
    file = str(base / "model.safetensors")
    mx.save_safetensors(file, {**mx.load(file), "model.layers.0.self_attn.q_proj.bias": mx.zeros((64,))})
    with pytest.raises(UserError, match=r"q_proj.bias: llama.cpp reads no such bias in the architecture qwen3"):
        export_gguf(str(base), tmp_path / "out.gguf")


def test_a_run_that_is_missing_is_not_called_a_model(run, tmp_path):
    for name in (run.parent / "runn", tmp_path / "no" / "such"):
        with pytest.raises(UserError, match="there is no such run or model directory; name a run"):
            export_gguf(str(name), tmp_path / "out.gguf")
        with pytest.raises(UserError, match="there is no such run directory"):
            fuse(str(name), tmp_path / "out")


def test_too_little_memory_is_noticed_before(run, tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "memory_sizes", lambda: (1 << 30, 100 << 20))
    both_refuse(run, tmp_path, r"the step '.*' needs 0\.\d GB of memory and this machine has 1.1 GB, 0.1 GB of it")


def test_weights_that_float16_cannot_hold(base, tmp_path):
    file = str(base / "model.safetensors")
    weights = mx.load(file)
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"] * 1e7
    mx.save_safetensors(file, weights)
    with pytest.raises(UserError, match=r"up_proj.weight: some of its numbers are too large for f16.*--type bf16"):
        export_gguf(str(base), tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"), "an expression that is not"),
        (lambda t: t.update(pre_tokenizer={"type": "Metaspace", "replacement": "▁", "split": True}), "by Metaspace"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "changes text before it is split"),
        (lambda t: t["model"].update(byte_fallback=True), "BPE with byte fallback"),
    ],
)
def test_other_tokenizers_are_refused(base, tmp_path, change, said):
    content = json.loads((base / "tokenizer.json").read_text())
    change(content)
    (base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        export_gguf(str(base), tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out*"))


def test_a_vocabulary_larger_than_the_embedding(make_model, tmp_path):
    with pytest.raises(UserError, match="embedding only 900 rows"):
        export_gguf(str(make_model("llama", vocab_size=900)), tmp_path / "out.gguf")
