"""A base stored in bfloat16 or float16 is computed with in float32 on a CPU, where it fits."""

from __future__ import annotations

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_lora.backends.mlx import backend, precision
from mlx_lora.backends.mlx.precision import widen
from mlx_lora.config import TrainingConfig
from mlx_lora.training.train import train

pytestmark = pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a GPU multiplies bfloat16 as it is")
SENTENCE = "its bfloat16 weights are computed with in float32, which is faster on a CPU"


def stored_as(dtype, base, out):
    shutil.copytree(base, out)
    weights = {name: value.astype(dtype) for name, value in mx.load(str(base / "model.safetensors")).items()}
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    return out


@pytest.fixture(scope="module")
def narrow(make_model, tmp_path_factory):
    return stored_as(mx.bfloat16, make_model("llama"), tmp_path_factory.mktemp("base") / "narrow")


def trained(base, data, out, **others):
    given = {"lora_rank": 4, "batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 4, "save_steps": 2}
    train(TrainingConfig(model_name=str(base), data=str(data), output_dir=str(out), **(given | others)), quiet=True)
    return mx.load(str(out / "adapters.safetensors"))


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(mx.array_equal(one[name], other[name]) for name in one)


def test_training_is_that_of_the_same_base_in_float32(narrow, eisv_data, tmp_path):
    wide = stored_as(mx.float32, narrow, tmp_path / "wide")
    ours = trained(narrow, eisv_data, tmp_path / "run")
    assert same(ours, trained(wide, eisv_data, tmp_path / "other"))
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    notes = [event["message"] for event in events if event["event"] == "warning"]
    assert sum(SENTENCE in note for note in notes) == 1
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "other")]
    assert [run["computed_in_float32"] for run in runs] == [True, False]


def test_an_earlier_version_s_run_resumes_bit_for_bit(narrow, eisv_data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(backend, "widen", lambda model, name: (False, []))
        earlier = trained(narrow, eisv_data, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    content = json.loads(file.read_text()) | {"result": None}
    del content["computed_in_float32"]
    file.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert same(trained(narrow, eisv_data, tmp_path / "run"), earlier)
    assert not same(trained(narrow, eisv_data, tmp_path / "new"), earlier)


def test_a_full_fine_tuning_keeps_the_type_that_it_saves(narrow, eisv_data, tmp_path):
    weights = trained(narrow, eisv_data, tmp_path / "run", fine_tune_type="full", max_steps=1, learning_rate=1e-5)
    assert {value.dtype for value in weights.values()} == {mx.bfloat16}


def test_it_must_fit(monkeypatch):
    layer = nn.Linear(64, 64)
    layer.set_dtype(mx.float16)
    monkeypatch.setattr(precision, "memory_sizes", lambda: (30_000, None))
    done, notes = widen(layer, "base")
    assert not done
    assert layer.weight.dtype == mx.float16
    assert notes[0].startswith("base: its float16 weights are computed with as they are, which is slow on a CPU")


def test_quantized_weights_stay():
    layer = nn.Sequential(nn.Linear(64, 64))
    layer.set_dtype(mx.bfloat16)
    nn.quantize(layer)
    before = {name: value.dtype for name, value in tree_flatten(layer.parameters())}
    assert widen(layer, "base") == (False, [])
    assert {name: value.dtype for name, value in tree_flatten(layer.parameters())} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "dry-run"])
def test_commands_say_so(command, narrow, eisv_data, name):
    ask = ("generate", "--target", narrow, "--prompt", "shape: convergence", "--max-tokens", "2")
    look = ("train", "--dry-run", "--data", eisv_data, "--set", f"model_name={narrow}", "--set", "num_epochs=1")
    done = command(*(ask if name == "generate" else look))
    assert done.returncode == 0, done.stderr
    assert SENTENCE in " ".join((done.stderr + done.stdout).split())
