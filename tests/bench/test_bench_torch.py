"""Both sides of a comparison on torch, tiny: that they start alike, learn alike and are counted as they compute."""

from __future__ import annotations

import gc
import json
import tempfile
import weakref
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra bench")
pytest.importorskip("trl", reason="needs the extra bench")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from mlx_lora.backends.torch.lora import start_adapter  # noqa: E402
from mlx_lora.backends.torch.loss import find_path  # noqa: E402
from mlx_lora.backends.torch.train_step import TrainStep  # noqa: E402
from mlx_lora.bench import torch_worker  # noqa: E402
from mlx_lora.bench.cases import Case, Spec, make_rows, shape_config  # noqa: E402
from mlx_lora.bench.compare import compare  # noqa: E402
from mlx_lora.bench.report import CLIP, batch_flops, training_config  # noqa: E402
from mlx_lora.bench.torch_model import Gauge, about_device, build, loss_after  # noqa: E402
from mlx_lora.training.trainer import training_steps  # noqa: E402

CPU = torch.device("cpu")
CONFIG = shape_config("llama-3.2-1b", layers=2, hidden=64)


def spec_of(side, steps=4, **others):
    return Spec(side, "eisv", CONFIG, batch_size=4, steps=steps, rows=4 * steps, seed=0, **others)


def rows_of(spec):
    return make_rows(spec.data, spec.rows, spec.config["vocab_size"], spec.seed)


def their_trainer(spec, directory):
    return torch_worker.make_trainer(spec, rows_of(spec), CPU, str(directory))


def test_both_sides_start_and_end_alike(tmp_path):
    ours, theirs = spec_of("ours"), spec_of("theirs", in_our_order=True)
    rows = rows_of(ours)
    model = build(ours, CPU)
    start_adapter(model, training_config(ours))
    before = loss_after(model, rows)
    assert loss_after(their_trainer(theirs, tmp_path).model.get_base_model(), rows) == pytest.approx(before, abs=1e-6)
    one, two = torch_worker.ours(ours, rows), torch_worker.theirs(theirs, rows)
    # The same rows in the same steps; what remains is the order of additions.
    assert one.loss < before - 0.01
    assert two.loss == pytest.approx(one.loss, abs=2e-4)
    assert [step.supervised for step in one.steps] == [step.supervised for step in two.steps]
    assert [step.real for step in one.steps] == [step.real for step in two.steps]


@pytest.mark.parametrize("packing", [False, True])
def test_their_own_order_learns_nearly_the_same(packing):
    ours, theirs = spec_of("ours", steps=8), spec_of("theirs", steps=8, packing=packing)
    rows = rows_of(ours)
    one, two = torch_worker.ours(ours, rows), torch_worker.theirs(theirs, rows)
    assert two.loss == pytest.approx(one.loss, abs=0.02)
    assert sum(step.real for step in one.steps) == sum(step.real for step in two.steps)
    assert sum(step.supervised for step in one.steps) == sum(step.supervised for step in two.steps)
    assert two.about["loss_type"] == "nll"
    assert two.about["packing"] == ("bfd" if packing else None)
    assert two.about["rows_a_step"] == (1 if packing else 4)


def test_packed_examples_do_not_see_each_other(tmp_path):
    spec = spec_of("theirs", steps=1, packing=True)
    trainer = their_trainer(spec, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 1
    with torch.no_grad():
        packed = float(trainer.compute_loss(trainer.model, batch))
    # Without FlashAttention transformers masks by position: the same loss, at the cost of every pair.
    assert loss_after(trainer.model.get_base_model(), rows_of(spec)) == pytest.approx(packed, abs=1e-5)


def adapters_flops(config, tokens):
    """Of rank 16 on q, k, v and o: forward, and backward by input and weight."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    sides = (hidden + queries) + 2 * (hidden + keys) + (queries + hidden)
    return 3 * 2 * tokens * 16 * sides * config["num_hidden_layers"]


def first_layer(config, tokens):
    """What no backward pass makes: the gradient of embeddings, through the first q, k and v and their adapters."""
    hidden, head = config["hidden_size"], config["head_dim"]
    columns = head * (config["num_attention_heads"] + 2 * config["num_key_value_heads"])
    return 2 * tokens * hidden * (columns + 3 * 16)


def pairs_flops(config, pairs):
    return 12 * pairs * config["num_attention_heads"] * config["head_dim"] * config["num_hidden_layers"]


def products(counter):
    """Operations of matrix products alone: what attention makes on a CPU is not seen."""
    counts = counter.get_flop_counts()["Global"]
    assert {str(name) for name in counts} <= {"aten.mm", "aten.addmm", "aten.bmm"}
    return sum(counts.values())


@pytest.mark.parametrize("packing", [False, True])
def test_their_arithmetic_is_what_torch_sees(tmp_path, packing):
    spec = spec_of("theirs", steps=1, packing=packing)
    trainer = their_trainer(spec, tmp_path)
    counter = torch_worker.Counter(trainer.data_collator)
    trainer.data_collator = counter
    with FlopCounterMode(display=False) as seen:
        trainer.train()
    (shape,) = counter.shapes
    tokens, pairs = shape.rows * shape.length, shape.rows * shape.length**2
    counted = shape.flops(CONFIG, triton=False, varlen=False) - pairs_flops(CONFIG, pairs)
    # torch does not see the head's last product, which is added in place.
    unseen = 2 * shape.rows * (shape.length - 1) * CONFIG["hidden_size"] * CONFIG["vocab_size"]
    expected = counted - unseen + adapters_flops(CONFIG, tokens) - first_layer(CONFIG, tokens)
    assert products(seen) == pytest.approx(expected, rel=1e-6)


def test_our_arithmetic_is_what_torch_sees():
    spec = spec_of("ours", steps=1)
    config = training_config(spec, CLIP)
    model = build(spec, CPU)
    start_adapter(model, config)
    path = find_path(model)
    step = TrainStep(model, path, config)
    _, _, (batch,) = next(training_steps(config, [row.encoded() for row in rows_of(spec)]))
    with FlopCounterMode(display=False) as seen:
        step([batch], 1, 1e-3)
    (count, length), prefix = batch.ids.shape, len(batch.prefix)
    assert prefix == 80
    assert path.share_prefix
    tokens, pairs = prefix + count * length, prefix * prefix + count * length * (prefix + length)
    counted = batch_flops(CONFIG, batch, path) - pairs_flops(CONFIG, pairs)
    expected = counted + adapters_flops(CONFIG, tokens) - first_layer(CONFIG, tokens)
    # The prefix's way through the last layer is longer by an MLP, and has no way back.
    assert products(seen) == pytest.approx(expected, rel=0.03)


def test_with_triton_the_head_sees_supervised_positions_only():
    shape = torch_worker.Shape(rows=2, length=10, examples=[10, 8], supervised=5)
    head = 2 * CONFIG["hidden_size"] * CONFIG["vocab_size"]
    everywhere, gathered = (shape.flops(CONFIG, triton=triton, varlen=False) for triton in (False, True))
    assert everywhere - gathered == 3 * (18 - 5) * head
    apart = shape.flops(CONFIG, triton=True, varlen=True)
    assert gathered - apart == pairs_flops(CONFIG, 200 - 164)


def test_gauge_sees_what_is_freed_again():
    gauge = Gauge(CPU)
    block = torch.ones(16 * 2**20)
    del block
    assert 60e6 < gauge.peak() < 90e6
    assert Gauge(CPU).peak() < 10e6


def test_peak_of_unknown_devices_is_not_guessed(monkeypatch):
    assert about_device(CPU, torch.bfloat16)["peak_tflops"] is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert about_device(torch.device("cuda", 0), torch.bfloat16)["peak_tflops"] == 989.0
    assert about_device(torch.device("cuda", 0), torch.float32)["peak_tflops"] is None


def test_bfloat16_on_both_sides():
    ours, theirs = (spec_of(side, steps=3, dtype="bfloat16", in_our_order=True) for side in ("ours", "theirs"))
    rows = rows_of(ours)
    one, two = torch_worker.ours(ours, rows), torch_worker.theirs(theirs, rows)
    assert one.about["dtype"] == two.about["dtype"] == "bfloat16"
    assert two.loss == pytest.approx(one.loss, abs=0.01)


def test_nothing_of_a_spec_stays_for_the_next(tmp_path):
    spec = spec_of("theirs", steps=1)
    with tempfile.TemporaryDirectory() as directory:
        trainer = their_trainer(spec, directory)
        trainer.train()
    model = weakref.ref(trainer.model)
    del trainer
    gc.collect()
    assert model() is None


@pytest.mark.slow
def test_a_comparison_unpacked_and_packed():
    case = Case("salience", "qwen2.5-0.5b", 4, layers=2, hidden=64, backend="torch")
    plain, packed = compare([case, replace(case, packing=True)], rounds=1, steps=2, seed=0)
    assert plain["ours"] == packed["ours"]
    for result in (plain, packed):
        assert 0 < result["arithmetic_ratio"] < 1
        assert result["loss_ours"] == pytest.approx(result["loss_theirs"], abs=0.05)
        assert result["ours"]["threads"] == result["theirs"]["threads"]
        assert result["ours"]["attention"] == result["theirs"]["attention"] == "sdpa"


@pytest.mark.slow
def test_the_command(command, tmp_path):
    own = ("--data", "worst", "--shape", "qwen3-0.6b", "--layers", 1, "--hidden", 64, "--batch-size", 2)
    done = command("bench", "--backend", "torch", *own, "--rounds", 1, "--steps", 2, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert json.loads((tmp_path / "bench.json").read_text())["results"] == [result]
    assert "trl: " in (tmp_path / "bench.md").read_text()
