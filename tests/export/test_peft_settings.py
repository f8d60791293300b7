"""Settings of PEFT: each is read, refused by name or known to change nothing; PEFT's own starts and fields."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from run_fixtures import make_run, sharpen

from mlx_lora.errors import UserError
from mlx_lora.export.adapter import differing
from mlx_lora.export.peft.adapter_import import import_peft
from mlx_lora.export.peft.export import export_peft
from mlx_lora.export.peft.reader import read_peft
from mlx_lora.export.peft.settings import IRRELEVANT, PLAIN_STARTS, READ, REFUSED, is_selected
from mlx_lora.models.resolve import BUILT_IN


@pytest.fixture(scope="module")
def directory(make_model, tmp_path_factory):
    """A PEFT directory that can be imported."""
    folder = tmp_path_factory.mktemp("peft")
    base = sharpen(make_model("llama", num_hidden_layers=2))
    export_peft(make_run(base, folder / "run"), folder / "peft")
    return folder / "peft"


def changed(directory, other, **changes):
    """A copy of a PEFT directory with other settings."""
    shutil.copytree(directory, other)
    config = other / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}, default=list))
    return other


def said(directory, out, **changes) -> str:
    """What the import refuses these settings with."""
    other = changed(directory, out / "peft", **changes)
    with pytest.raises(UserError) as caught:
        import_peft(other, out / "run")
    assert sorted(path.name for path in out.iterdir()) == ["peft"]
    return str(caught.value)


def pissa_adapter(out, start: str = "pissa"):
    """What PEFT saves right after a PiSSA start of rank 8 on the built-in base: its largest singular vectors."""
    from safetensors.numpy import load_file, save_file

    out.mkdir()
    weights, tensors = load_file(BUILT_IN["builtin/tiny-lumen"] / "model.safetensors"), {}
    for layer in range(4):
        for name in ("q_proj", "v_proj"):
            path = f"model.layers.{layer}.self_attn.{name}"
            left, values, right = np.linalg.svd(weights[f"{path}.weight"].astype(np.float64), full_matrices=False)
            root = np.sqrt(values[:8])
            tensors[f"base_model.model.{path}.lora_A.weight"] = (root[:, None] * right[:8]).astype(np.float32)
            tensors[f"base_model.model.{path}.lora_B.weight"] = (left[:, :8] * root).astype(np.float32)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "builtin/tiny-lumen",
        "r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "init_lora_weights": start,
    }
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


def test_a_pissa_adapter_is_refused_by_name(refused, tmp_path):
    sentence = refused("import", "peft", pissa_adapter(tmp_path / "pissa"), "--out", tmp_path / "run")
    assert "init_lora_weights is 'pissa', which changes the base's weights at the start" in sentence
    assert "path_initial_model_for_weight_conversion" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["pissa"]


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new", ["x"]]
)
def test_starts_that_change_the_base(directory, tmp_path, start):
    assert f"init_lora_weights is {start!r}, which changes" in said(directory, tmp_path, init_lora_weights=start)


def accepted(directory, out, **changes) -> bool:
    """Return True if a directory with these settings is read as the same adapter."""
    other = changed(directory, out / "peft", **changes)
    return differing(read_peft(other).pairs, read_peft(directory).pairs) == 0


@pytest.mark.parametrize("start", [True, False, None, "Gaussian", *PLAIN_STARTS])
def test_starts_that_leave_the_base(directory, tmp_path, start):
    assert accepted(directory, tmp_path, init_lora_weights=start)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_settings_that_change_what_is_computed(directory, tmp_path, key):
    assert f"{key} is {{'some': 1}}: it {REFUSED[key]}, which" in said(directory, tmp_path, **{key: {"some": 1}})


def test_unknown_settings(directory, tmp_path):
    assert "use_tomorrows_lora is True, a setting that is not known here" in said(
        directory, tmp_path, use_tomorrows_lora=True
    )


@pytest.mark.parametrize("value", [None, False, {}, [], "", 0])
def test_settings_that_are_off(directory, tmp_path, value):
    assert accepted(directory, tmp_path, use_tomorrows_lora=value, rank_pattern=value)


def test_matrices_that_peft_would_ignore(directory, tmp_path):
    sentence = said(directory, tmp_path, target_modules=["q_proj", "k_proj", "o_proj"])
    assert "self_attn.v_proj, which target_modules, exclude_modules and layers_to_transform leave out" in sentence


SELECTIONS = [
    ({"target_modules": ["q_proj"]}, True),
    ({"target_modules": ["proj"]}, False),
    ({"target_modules": ["model.layers.11.self_attn.q_proj"]}, True),
    ({"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]}, False),
    ({"target_modules": ["q_proj"], "layers_to_transform": [1, 2]}, False),
    ({"target_modules": ["q_proj"], "layers_to_transform": 11}, True),
    ({"target_modules": ["q_proj"], "layers_to_transform": [11], "layers_pattern": "layers"}, True),
    ({"target_modules": ["q_proj"], "layers_to_transform": [11], "layers_pattern": ["h"]}, False),
    ({"target_modules": ["q_proj"], "layers_to_transform": []}, True),
    ({"target_modules": r".*layers\.11\..*q_proj"}, True),
]


@pytest.mark.parametrize(("config", "expected"), SELECTIONS)
def test_selections(config, expected):
    assert is_selected(config, "model.layers.11.self_attn.q_proj") is expected


@pytest.mark.parametrize(("config", "expected"), SELECTIONS)
def test_selections_are_pefts(config, expected):
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists

    found = check_target_module_exists(peft.LoraConfig(**config), "model.layers.11.self_attn.q_proj")
    assert bool(found) is expected


def test_every_field_of_the_installed_peft_is_in_one_table():
    peft = pytest.importorskip("peft")
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields <= READ | set(REFUSED) | set(IRRELEVANT)
    assert len(READ) + len(REFUSED) + len(IRRELEVANT) == len(READ | set(REFUSED) | set(IRRELEVANT))


def test_a_config_with_every_field_is_read(directory, tmp_path):
    peft = pytest.importorskip("peft")
    content = json.loads((directory / "adapter_config.json").read_text())
    whole = peft.LoraConfig().to_dict() | content
    assert len(whole) > len(content)
    assert accepted(directory, tmp_path, **whole)


@pytest.mark.slow
def test_which_starts_change_the_base_in_peft(directory, peft, tmp_path):
    """PEFT itself: with a plain start the logits are the matrices' own, with another they are not."""
    base = json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"]
    starts = [True, *PLAIN_STARTS, "lora_ga", "pissa", "pissa_niter_4", "olora"]
    jobs = []
    for start in starts:
        adapter = changed(directory, tmp_path / str(start), init_lora_weights=start, lora_ga_config={})
        out = tmp_path / f"{start}.npy"
        jobs.append({"action": "logits", "base": base, "adapter": adapter, "tokens": [5, 17, 300, 42], "out": out})
    peft(jobs)
    found = {start: np.load(tmp_path / f"{start}.npy") for start in starts}
    differences = {start: float(np.abs(values - found[True]).max()) for start, values in found.items()}
    assert {start for start, difference in differences.items() if difference > 0.1} == {
        "pissa",
        "pissa_niter_4",
        "olora",
    }
    assert all(differences[start] == 0 for start in (*PLAIN_STARTS, "lora_ga"))
