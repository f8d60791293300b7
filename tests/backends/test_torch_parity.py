"""MLX and torch: one config, the same numbers; and a run of one resumes on the other."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from backend_fixtures import ALL_LINEAR, BACKENDS, changed_model, curve, examples, fresh, sharp_model, state_of, steps
from quantized_fixtures import quantized
from safetensors.numpy import load_file

from mlx_lora.config import TrainingConfig
from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.data.collate import collate
from mlx_lora.models.resolve import resolve_model
from mlx_lora.training import trainer
from mlx_lora.training.train import train

ARCHITECTURES = ("llama", "qwen2", "qwen3")
RUN = {
    "lora_rank": 8,
    "lora_dropout": 0.0,
    "lora_target_modules": ALL_LINEAR,
    "learning_rate": 2e-3,
    "warmup_steps": 5,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "grad_clip": 1.0,
    "max_steps": 50,
    "num_epochs": 100,
    "eval_steps": 25,
    "save_steps": 20,
    "log_steps": 1,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_logits(make_model, architecture):
    path, tokens = sharp_model(make_model(architecture), 3.0), examples(1)[0].ids
    ours, theirs = (BACKENDS[name](resolve_model(str(path))) for name in ("mlx", "torch"))
    one = np.array(ours.model(mx.array(tokens[None])))
    with torch.no_grad():
        two = theirs.model(torch.from_numpy(tokens[None]).long()).logits.numpy()
    assert np.abs(one).max() > 1
    assert np.abs(one - two).max() < 1e-4


def run_config(path, data, out, backend):
    return TrainingConfig(model_name=str(path), data=str(data), output_dir=str(out), backend=backend, **RUN)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def runs(request, make_model, eisv_data, tmp_path_factory):
    """(backend → run directory, batch by batch what each was given) of one config on both backends."""
    path = sharp_model(make_model(request.param), 3.0)
    out, given = {}, {}
    for name, kind in BACKENDS.items():
        out[name] = tmp_path_factory.mktemp(f"{request.param}-{name}") / "run"
        batches = given.setdefault(name, [])
        config = run_config(path, eisv_data, out[name], name)
        plain = kind.train_step

        def noted(self, micro_batches, *rest, plain=plain, batches=batches):
            batches.append(micro_batches)
            return plain(self, micro_batches, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "train_step", noted)
            train(config, quiet=True)
    return out, given, path


def test_the_same_batches(runs):
    _, given, _ = runs
    assert len(given["mlx"]) == len(given["torch"]) == 50
    for one, two in zip(given["mlx"], given["torch"], strict=True):
        for a, b in zip(one, two, strict=True):
            for field in ("prefix", "ids", "positions", "targets", "weights"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_the_same_curve(runs):
    out, _, _ = runs
    for event, key in (("progress", "loss"), ("progress", "grad_norm"), ("evaluation", "validation_loss")):
        one, two = (curve(out[name], event, key) for name in ("mlx", "torch"))
        assert one.keys() == two.keys()
        assert len(one) == (50 if event == "progress" else 2)
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-3 if key != "grad_norm" else 1e-2)
    assert curve(out["mlx"])[50] < 0.5 * curve(out["mlx"])[1]
    starts = [json.loads((out[name] / "metrics.jsonl").read_text().splitlines()[0]) for name in ("mlx", "torch")]
    assert [start["backend"] for start in starts] == ["mlx", "torch"]
    assert starts[0]["trainable_parameters"] == starts[1]["trainable_parameters"]


def test_adapters_exchanged_give_the_same_answers(runs, eisv_data):
    out, _, path = runs
    asked = [json.loads(line)["messages"][:-1] for line in (eisv_data / "test.jsonl").read_text().splitlines()[:8]]
    answers = {}
    for name, kind in BACKENDS.items():
        for source in BACKENDS:
            backend = kind(resolve_model(str(path)))
            backend.load_adapter(out[source])
            prompts = [encode_prompt(backend.tokenizer, messages) for messages in asked]
            answers[name, source] = backend.generate(prompts, 24, 0.0, 0)
    assert answers["torch", "mlx"] == answers["mlx", "mlx"]
    assert answers["mlx", "torch"] == answers["torch", "torch"]
    base = BACKENDS["torch"](resolve_model(str(path))).generate(prompts, 24, 0.0, 0)
    assert base != answers["torch", "torch"]
    files = [load_file(out[name] / "adapters.safetensors") for name in BACKENDS]
    assert {n: v.shape for n, v in files[0].items()} == {n: v.shape for n, v in files[1].items()}
    described = [json.loads((out[name] / "adapter_config.json").read_text()) for name in BACKENDS]
    assert described[0] == described[1]


KINDS = {
    "adamw": {},
    "rslora, last layer": {"use_rslora": True, "num_layers": 1},
    "dora": {"fine_tune_type": "dora"},
    "full": {"fine_tune_type": "full", "num_layers": 1},
    "adafactor": {"optimizer": "adafactor"},
    "adafactor, full": {"optimizer": "adafactor", "fine_tune_type": "full", "num_layers": 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "second"), [("mlx", "torch"), ("torch", "mlx")])
def test_what_one_begins_the_other_goes_on_with(make_model, tmp_path, kind, first, second):
    """Five steps here and five there are ten anywhere: the optimizer's state goes along."""
    path, config = make_model("qwen3"), {"weight_decay": 0.1, **KINDS[kind]}
    whole, begun, other = fresh(first, path, **config), fresh(first, path, **config), fresh(second, path, **config)
    steps(whole, range(1, 11))
    steps(begun, range(1, 6))
    begun.save_state(tmp_path / "state.safetensors")
    steps(other, range(20, 22))  # what it has learned itself is forgotten
    other.load_state(tmp_path / "state.safetensors")
    steps(other, range(6, 11))
    one, two = state_of(whole, tmp_path), state_of(other, tmp_path)
    assert one.keys() == two.keys()
    assert one["optimizer.step"] == two["optimizer.step"] == 10
    start = state_of(fresh(first, path, **config), tmp_path)
    for name, value in one.items():
        if name not in ("optimizer.step", "optimizer.learning_rate"):
            moved = np.linalg.norm(value - start[name])
            assert np.linalg.norm(two[name] - value) <= 1e-3 * moved + 1e-9, name


@pytest.mark.parametrize("first", ["mlx", "torch"])
def test_a_run_goes_on_elsewhere(runs, eisv_data, tmp_path, first):
    """The whole run, stopped after 30 steps on one backend and gone on with on the other."""
    out, _, path = runs
    second = "torch" if first == "mlx" else "mlx"

    with pytest.MonkeyPatch.context() as patch:
        after_step = trainer.Trainer._after_step

        def stop(self, limits):
            return after_step(self, limits) or ("time budget" if self.state.step == 30 else None)

        patch.setattr(trainer.Trainer, "_after_step", stop)
        train(run_config(path, eisv_data, tmp_path / "run", first), quiet=True)
    assert max(curve(tmp_path / "run")) == 30
    _, result = train(run_config(path, eisv_data, tmp_path / "run", second), quiet=True)
    assert result.steps == 50
    one, two = curve(out["mlx"]), curve(tmp_path / "run")
    assert list(two) == list(one)
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-3)


def test_a_base_of_mlx_in_four_bits(make_model, tmp_path):
    """What mlx-lm quantized is read with MLX's own values, and learns the same."""
    path = quantized(make_model("qwen2"), tmp_path / "base")
    one, two = (fresh(name, path) for name in ("mlx", "torch"))
    assert any("quantized weights are held as float32" in note for note in two.notes)
    assert steps(two, range(1, 9)) == pytest.approx(steps(one, range(1, 9)), rel=1e-4)


def test_a_bfloat16_base_learns_alike(make_model):
    path = changed_model(make_model("llama"), lambda _, value: value.astype(mx.bfloat16))
    one, two = (steps(fresh(name, path, lora_alpha=4), [1, 1, 1, 1, 2, 2, 2, 2]) for name in ("mlx", "torch"))
    assert one == pytest.approx(two, rel=1e-2)
    assert one[3] < one[0]


def test_evaluation_counts_alike(make_model):
    path, batch = make_model("llama"), collate(examples())
    one, two = (fresh(name, path) for name in ("mlx", "torch"))
    assert two.evaluate(batch) == pytest.approx(one.evaluate(batch), rel=1e-5)
