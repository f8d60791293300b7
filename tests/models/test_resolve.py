import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_lora.errors import UserError
from mlx_lora.models.resolve import BUILT_IN, resolve_model

TINY = BUILT_IN["builtin/tiny-lumen"]


def copy_of_tiny(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path / "model"


def test_the_built_in_base_is_small_safetensors():
    model = resolve_model("builtin/tiny-lumen")
    assert model.revision is None
    assert (TINY / "model.safetensors").stat().st_size < 8_000_000
    sizes = [v.size for v in load_file(TINY / "model.safetensors").values()]
    assert 1_000_000 <= sum(sizes) <= 4_000_000
    assert not any(f.suffix in (".bin", ".pt", ".pkl", ".py") for f in TINY.iterdir())


def test_rope_of_transformers_5_reaches_mlx_lm(tmp_path):
    path = copy_of_tiny(tmp_path)
    config = json.loads((path / "config.json").read_text())
    config.pop("rope_theta", None)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    (path / "config.json").write_text(json.dumps(config))
    assert resolve_model(str(path)).config_overrides == {"rope_theta": 500000.0}
    config["rope_parameters"] |= {"rope_type": "llama3", "factor": 32.0}
    (path / "config.json").write_text(json.dumps(config))
    assert resolve_model(str(path)).config_overrides["rope_scaling"] == {"rope_type": "llama3", "factor": 32.0}


def refusal(name):
    with pytest.raises(UserError) as error:
        resolve_model(str(name))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_weights(tmp_path):
    path = copy_of_tiny(tmp_path)
    (path / "model.safetensors").unlink()
    assert "there are no weights" in refusal(path)
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pickled" in refusal(path)


def test_truncated_weights(tmp_path):
    path = copy_of_tiny(tmp_path)
    whole = (path / "model.safetensors").read_bytes()
    for length in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        (path / "model.safetensors").write_bytes(whole[:length])
        assert "truncated or broken" in refusal(path)


def test_a_missing_shard(tmp_path):
    path = copy_of_tiny(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing" in refusal(path)
    (path / "model.safetensors.index.json").write_text("[]")
    assert "list of weight files is broken" in refusal(path)


def test_broken_configs(tmp_path):
    path = copy_of_tiny(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_file": "evil.py"}))
    assert "its own code" in refusal(path)
    (path / "config.json").write_text("{")
    assert "not readable JSON" in refusal(path)
    (path / "config.json").write_text("{}")
    assert "no model_type" in refusal(path)
    (path / "config.json").unlink()
    assert "no config.json" in refusal(path)


def test_names_that_lead_nowhere():
    assert "builtin/tiny-lumen" in refusal("builtin/huge")
    assert "no such model directory" in refusal("./absent")
    assert "neither a local directory nor a name" in refusal("a name with spaces")


def test_every_weight_of_the_base_is_finite():
    assert all(np.isfinite(v).all() for v in load_file(TINY / "model.safetensors").values())
