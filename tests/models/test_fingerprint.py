"""The fingerprint of a base's weights: equal for equal tensors, other for everything else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from quantized_fixtures import quantized
from safetensors.numpy import load_file, save_file

from mlx_lora.models import fingerprint
from mlx_lora.models.fingerprint import another_base, base_fingerprint

FILE = "model.safetensors"


@pytest.fixture(params=["whole", "windows"])
def base(request, make_model, monkeypatch):
    """A base as it is hashed when it is small, and when it is large."""
    if request.param == "windows":
        monkeypatch.setattr(fingerprint, "WHOLE", 0)
        monkeypatch.setattr(fingerprint, "WINDOW", 64)
    return make_model("llama")


def test_the_same_tensors_elsewhere(base, tmp_path):
    weights = load_file(base / FILE)
    names = sorted(weights)
    (tmp_path / "sharded").mkdir()
    halves = (names[1::2], names[::2])
    for number, half in enumerate(halves, 1):
        shard = tmp_path / "sharded" / f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in half}, shard, metadata={"format": "pt"})
    shutil.copytree(base, tmp_path / "copy")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "transformers_version": "5.0"}))
    assert base_fingerprint(tmp_path / "sharded") == base_fingerprint(tmp_path / "copy") == base_fingerprint(base)


def test_another_training_of_the_same_shapes(base, tmp_path):
    weights = load_file(base / FILE)
    before = base_fingerprint(base)
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        other = tmp_path / name
        other.mkdir()
        save_file({**weights, name: weights[name] * np.float32(1.001)}, other / FILE)
        assert base_fingerprint(other) != before
    (tmp_path / "swapped").mkdir()
    one, two = (f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))
    save_file({**weights, one: weights[two], two: weights[one]}, tmp_path / "swapped" / FILE)
    assert base_fingerprint(tmp_path / "swapped") != before


def test_a_quantized_copy_is_another_base(base, tmp_path):
    assert base_fingerprint(quantized(base, tmp_path)) != base_fingerprint(base)


def test_a_small_base_is_hashed_to_the_last_byte(make_model, tmp_path):
    base = make_model("llama")
    before = base_fingerprint(base)
    content = bytearray((base / FILE).read_bytes())
    content[-70_001] ^= 1
    (base / FILE).write_bytes(content)
    assert base_fingerprint(base) != before


def test_only_fingerprints_of_one_scheme_are_compared():
    assert another_base("weights-1:aa", "weights-1:ab")
    assert not another_base("weights-1:aa", "weights-1:aa")
    for unknown in (None, 3, "weights-2:aa", ""):
        assert not another_base(unknown, "weights-1:ab")
