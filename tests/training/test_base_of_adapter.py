"""An adapter belongs to the base that it was trained on: to its weights, not to their shapes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

FILE = "model.safetensors"
SETTINGS = ("--config", "quickstart", "--set", "lora_rank=4", "--set", "max_steps=2", "--set", "batch_size=4")


def train(command, data, base, out, *more):
    done = command("train", *SETTINGS, "--set", f"model_name={base}", "--data", data, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    return out


def retrain(base):
    """Give a base's weights other values, as another training of it would."""
    weights = load_file(base / FILE)
    save_file(
        {name: value * np.float32(1.01) for name, value in weights.items()}, base / FILE, metadata={"format": "mlx"}
    )


@pytest.fixture
def base(make_model):
    return make_model("llama")


@pytest.fixture
def run(command, eisv_data, base, tmp_path):
    return train(command, eisv_data, base, tmp_path / "run")


def test_a_run_and_its_adapter_name_their_base(run, base):
    from mlx_lora.models.fingerprint import base_fingerprint

    for name in ("run.json", "adapter_config.json"):
        assert json.loads((run / name).read_text())["base_fingerprint"] == base_fingerprint(base)


@pytest.mark.slow
def test_other_weights_of_the_same_shapes(command, refused, eisv_data, run, base, tmp_path):
    retrain(base)
    arguments = ("--set", f"model_name={base}", "--data", eisv_data)
    assert "the weights of" in refused("train", *SETTINGS, *arguments, "--out", run, "--set", "max_steps=3", "--extend")
    start = ("--set", f"init_adapter={run}")
    assert "was trained on another base" in refused("train", *SETTINGS, *arguments, *start, "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    said = "this adapter was trained on other weights than those of"
    for export in (("fuse",), ("export", "peft"), ("export", "gguf-lora")):
        assert said in refused(*export, "--run", run, "--out", tmp_path / "out")
    # Asking it shows what comes of it, and says so.
    answer = command("generate", "--target", run, "--prompt", "a", "--max-tokens", "2", "--json")
    assert answer.returncode == 0
    assert f"warning: {run}: {said}" in answer.stderr
    cases = ("--cases", eisv_data / "test.jsonl", "--max-tokens", "2", "--json")
    report = json.loads(command("eval", "--suite", "eisv_gate1", "--target", run, *cases).stdout)
    assert said in report["warnings"][0]


@pytest.mark.slow
def test_the_same_weights_elsewhere(command, eisv_data, run, base, tmp_path):
    shutil.copytree(base, tmp_path / "copy")
    train(command, eisv_data, tmp_path / "copy", tmp_path / "b", "--set", f"init_adapter={run}")


@pytest.mark.slow
def test_an_adapter_that_names_no_base_is_taken(command, eisv_data, run, base, tmp_path):
    for name in ("run.json", "adapter_config.json"):
        content = json.loads((run / name).read_text())
        del content["base_fingerprint"]
        (run / name).write_text(json.dumps(content))
    retrain(base)
    train(command, eisv_data, base, tmp_path / "b", "--set", f"init_adapter={run}")
