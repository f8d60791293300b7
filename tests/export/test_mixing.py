"""Mixing of two adapters: exact where the sum has the candidate's rank, else the best approximation of that rank."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from run_fixtures import make_run
from safetensors.numpy import load_file, save_file

from mlx_lora.config import TrainingConfig
from mlx_lora.errors import UserError
from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.export.mixing import mix_adapters
from mlx_lora.training.train import train

BASE = "builtin/tiny-lumen"


def change(directory):
    """ΔW of each module, float64 [in, out]."""
    arrays = load_file(directory / "adapters.safetensors")
    scale = json.loads((directory / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    found = {}
    for name, a in arrays.items():
        if name.endswith(".lora_a"):
            b = arrays[name.removesuffix("a") + "b"].astype(np.float64)
            a = a.astype(np.float64)
            if b.ndim == 3:
                a = np.swapaxes(a.reshape(len(b), -1, a.shape[-1]), 1, 2)
                b = np.swapaxes(b, 1, 2)
            found[name.removesuffix(".lora_a")] = scale * (a @ b)
    return found


def far(found, wanted):
    """Largest distance of the changes, relative to the wanted one."""
    assert set(found) == set(wanted)
    return max(np.linalg.norm(found[k] - wanted[k]) / max(np.linalg.norm(wanted[k]), 1e-30) for k in wanted)


def noise(run, seed, rank=None):
    """Draw the run's adapter anew, with values of a rank below its own where one is given."""
    file, draw = run / "adapters.safetensors", np.random.default_rng(seed)
    arrays = {key: draw.normal(size=value.shape).astype(np.float32) for key, value in load_file(file).items()}
    for key, value in arrays.items():
        if rank is not None and key.endswith("lora_a"):
            value[:, rank:] = 0
    save_file(arrays, file, metadata={"format": "mlx"})
    return run


@pytest.fixture
def two(tmp_path):
    """A live adapter and a candidate; keywords are settings of both, or of one by ``live`` and ``candidate``."""

    def make(live=None, candidate=None, base=BASE, ranks=(None, None), **both):
        one = make_run(base, tmp_path / "live", **{**both, **(live or {})})
        other = make_run(base, tmp_path / "candidate", **{**both, **(candidate or {})})
        return noise(one, 1, ranks[0]), noise(other, 2, ranks[1])

    return make


def expected(live, candidate, alpha):
    one, other = change(live), change(candidate)
    zero = {k: 0 * v for k, v in {**one, **other}.items()}
    return {k: alpha * other.get(k, v) + (1 - alpha) * one.get(k, v) for k, v in zero.items()}


def test_the_whole_candidate_is_the_candidate(two, tmp_path):
    live, candidate = two()
    mix_adapters(live, candidate, 1.0, tmp_path / "mixed")
    assert far(change(tmp_path / "mixed"), change(candidate)) < 1e-6


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_exact_where_the_sum_has_the_rank(two, tmp_path, alpha):
    live, candidate = two(ranks=(2, 2), lora_target_modules="auto")
    mix_adapters(live, candidate, alpha, tmp_path / "mixed")
    assert far(change(tmp_path / "mixed"), expected(live, candidate, alpha)) < 1e-6


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_else_the_best_approximation_of_the_rank(two, tmp_path, alpha):
    live, candidate = two(live={"lora_alpha": 3.0}, lora_target_modules=["q_proj", "v_proj"], num_layers=2)
    mix_adapters(live, candidate, alpha, tmp_path / "mixed")
    found, rank = change(tmp_path / "mixed"), 4
    best = {}
    for name, whole in expected(live, candidate, alpha).items():
        u, s, v = np.linalg.svd(whole, full_matrices=False)
        best[name] = (u[:, :rank] * s[:rank]) @ v[:rank]
        error = np.linalg.norm(whole - found[name])
        assert error == pytest.approx(np.sqrt(np.sum(s[rank:] ** 2)), rel=1e-5)
        assert error > 0.1 * np.linalg.norm(whole)
    assert far(found, best) < 1e-5


def test_without_a_live_adapter_the_change_is_scaled(two, tmp_path):
    _, candidate = two()
    mix_adapters(None, candidate, 0.5, tmp_path / "mixed")
    mixed, before = (load_file(d / "adapters.safetensors") for d in (tmp_path / "mixed", candidate))
    for name, values in before.items():
        wanted = values * np.float32(0.5) if name.endswith("lora_b") else values
        assert np.array_equal(mixed[name], wanted)


def test_adapters_of_other_ranks_modules_and_layers(two, tmp_path):
    live, candidate = two(
        live={"lora_rank": 3, "lora_target_modules": ["v_proj", "q_proj"], "num_layers": 1},
        candidate={"lora_rank": 8, "lora_target_modules": ["q_proj", "o_proj"]},
        ranks=(3, 5),
    )
    mix_adapters(live, candidate, 0.5, tmp_path / "mixed")
    wanted, found = expected(live, candidate, 0.5), change(tmp_path / "mixed")
    added = set(found) - set(wanted)
    # The config names modules once for all layers, so v_proj is there in the other layers too, and changes nothing.
    assert added
    assert all(name.endswith("v_proj") and not found[name].any() for name in added)
    assert far({k: found[k] for k in wanted}, wanted) < 1e-6
    load_target(str(tmp_path / "mixed"), "mlx")


def test_experts(two, make_model, tmp_path):
    live, candidate = two(base=make_model("qwen3_moe"), lora_target_modules="auto", lora_rank=4)
    mix_adapters(live, candidate, 0.5, tmp_path / "mixed")
    found, wanted = change(tmp_path / "mixed"), expected(live, candidate, 0.5)
    assert any(values.ndim == 3 for values in wanted.values())
    for name, whole in wanted.items():
        u, s, v = np.linalg.svd(whole, full_matrices=False)
        best = (u[..., :4] * s[..., None, :4]) @ v[..., :4, :]
        assert np.linalg.norm(found[name] - best) < 1e-5 * np.linalg.norm(best)
    load_target(str(tmp_path / "mixed"), "mlx")


def logits(run, ids):
    model = load_target(str(run), "mlx").backend.model
    return np.array(model(mx.array([ids])).astype(mx.float32))


@pytest.mark.slow
def test_trained_adapters_and_the_logits_of_their_mixture(eisv_data, tmp_path):
    settings = {"model_name": BASE, "data": str(eisv_data), "lora_rank": 8, "lora_target_modules": ["q_proj", "o_proj"]}
    settings |= {"max_seq_length": 256, "backend": "mlx", "learning_rate": 3e-3, "warmup_steps": 0, "batch_size": 4}
    train(TrainingConfig(**settings, max_steps=2, output_dir=str(tmp_path / "live")), quiet=True)
    further = {"init_adapter": str(tmp_path / "live"), "output_dir": str(tmp_path / "candidate"), "seed": 7}
    train(TrainingConfig(**settings, **further, max_steps=2), quiet=True)
    live, candidate, mixed = (tmp_path / name for name in ("live", "candidate", "mixed"))
    mix_adapters(live, candidate, 0.5, mixed)
    assert json.loads((mixed / "run.json").read_text())["mixed"]["alpha"] == 0.5
    whole = expected(live, candidate, 0.5)
    kept = {}
    for name, values in whole.items():
        u, s, v = np.linalg.svd(values, full_matrices=False)
        kept[name] = (u[:, :8] * s[:8]) @ v[:8]
    assert far(change(mixed), kept) < 1e-5
    # The logits: those of the base with the expected change in its weights.
    ids = list(range(5, 25))
    base = load_target(BASE, "mlx").backend.model
    for name, values in kept.items():
        module = base
        for part in name.split("."):
            module = module[int(part)] if part.isdigit() else module[part]
        module.weight = module.weight + mx.array(values.T.astype(np.float32))
    reference = np.array(base(mx.array([ids])).astype(mx.float32))
    assert np.abs(logits(mixed, ids) - reference).max() < 1e-4 * np.abs(reference).max()
    assert np.abs(logits(candidate, ids) - reference).max() > 1e-3 * np.abs(reference).max()


def test_refusals(two, tmp_path):
    live, candidate = two()
    out = tmp_path / "mixed"

    def refused(said, live=live, candidate=candidate, alpha=0.5):
        with pytest.raises(UserError, match=said):
            mix_adapters(live, candidate, alpha, out)
        assert not out.exists()

    refused("above 0", alpha=0.0)
    dora = make_run(BASE, tmp_path / "dora", fine_tune_type="dora")
    refused("this adapter is DoRA", live=dora)
    refused("this adapter is DoRA", candidate=dora)
    refused("whole layers", candidate=make_run(BASE, tmp_path / "full", fine_tune_type="full"))
    file = candidate / "adapters.safetensors"
    sound = file.read_bytes()
    arrays = load_file(file)
    first = next(iter(arrays))
    save_file({**arrays, first: np.full_like(arrays[first], np.nan)}, file)
    refused("not finite")
    save_file({name: values for name, values in arrays.items() if name != first}, file)
    refused("only one of its two matrices")
    save_file({**arrays, first.replace("lora_a", "lora_b"): np.zeros((4, 7), np.float32)}, file)
    refused("another shape in the live adapter")
    file.write_bytes(sound[:100])
    refused("cannot be read|broken|truncated")
    file.write_bytes(sound)
    (candidate / "adapter_config.json").write_text("{}")
    refused("cannot be read")
