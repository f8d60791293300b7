"""What a comparison counts and derives, by hand; no framework is needed."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from mlx_lora.backends.loss_plan import LossPath
from mlx_lora.bench.cases import STANDARD, Case, Row, Spec, shape_config
from mlx_lora.bench.compare import Rounds, summary, table, title, write_results
from mlx_lora.bench.report import Report, Step, batch_flops, flops, training_config
from mlx_lora.bench.worker import RIVALS, ask_new
from mlx_lora.data.collate import collate
from mlx_lora.errors import UserError

CONFIG = {
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "vocab_size": 10,
}
# Weights of a layer: q and o 4 × 4, k and v 4 × 2; gate, up and down 4 × 8. Of the head: 4 × 10.
ATTENTION, MLP, HEAD = 2 * 16 + 2 * 8, 3 * 32, 40
# Two numbers of arithmetic a weight, forward and backward.
BOTH = 2 * 2
# Per pair and layer: width 4, queries by keys and shares by values, forward and twice backward.
PAIR = 2 * 4 * 2 * 3


def test_flops_of_every_position():
    counted = flops(CONFIG, body=5, head=3, attended=25)
    assert counted == BOTH * (5 * 2 * (ATTENTION + MLP) + 3 * HEAD) + 2 * 25 * PAIR


def test_flops_of_a_narrowed_layer_and_a_head_computed_again():
    narrowed = flops(CONFIG, body=5, head=3, attended=25, narrowed=3)
    assert narrowed == BOTH * (5 * (2 * ATTENTION + MLP) + 3 * MLP + 3 * HEAD) + 2 * 25 * PAIR
    again = flops(CONFIG, body=5, head=3, attended=25, head_passes=3)
    assert again - flops(CONFIG, body=5, head=3, attended=25) == 2 * 3 * HEAD


@pytest.fixture
def batch():
    """Two rows of 24 tokens, the first 8 of which they share; the last 4 are supervised."""
    shared, rng = np.arange(10, 18), np.random.default_rng(0)
    rows = [Row(np.r_[shared, first, rng.integers(100, 200, 15)], 20) for first in (1, 2)]
    return collate([row.encoded() for row in rows])


def test_flops_of_our_batches(batch):
    assert (len(batch.prefix), batch.ids.shape, len(batch.positions)) == (8, (2, 16), 32)
    shared = batch_flops(CONFIG, batch, LossPath(share_prefix=True, narrow=True))
    assert shared == flops(CONFIG, 8 + 2 * 16, 32, 8 * 8 + 2 * 16 * 24, narrowed=32)
    apart = batch_flops(CONFIG, batch, LossPath(narrow=True))
    assert apart == flops(CONFIG, 2 * 24, 32, 2 * 24 * 24, narrowed=32)
    plain = batch_flops(CONFIG, batch, LossPath(plain=True))
    assert plain == flops(CONFIG, 2 * 24, 2 * 24, 2 * 24 * 24)


def report(seconds, real, peak_bytes=100, **about):
    """Two steps of warm-up that would spoil everything, then those given."""
    steps = [Step(99.0, 50.0, 1, 10)] * 2 + [Step(s, 50.0, 2, r) for s, r in zip(seconds, real, strict=True)]
    return Report(steps, 1.5, peak_bytes, about)


def test_torch_is_compared_by_real_tokens_and_mlx_by_steps():
    ours, theirs = report([1.0, 3.0], [100, 300]), report([4.0, 4.0], [200, 600], peak_bytes=400)
    case = Case("eisv", "small-8k", 8)
    of_mlx, of_torch = (summary(replace(case, backend=name), [(ours, theirs)]) for name in ("mlx", "torch"))
    assert of_mlx["step_time_ratio"] == (4 / 2) / (8 / 2)
    assert of_torch["step_time_ratio"] == (4 / 400) / (8 / 800)
    assert of_torch["peak_memory_ratio"] == 0.25
    assert of_torch["arithmetic_ratio"] == (200 / 420) / (200 / 820)
    assert of_torch["ours"]["seconds_per_1000_real_tokens"] == 10.0
    assert of_torch["ours"]["real_tokens_per_second"] == 100.0
    assert of_torch["ours"]["supervised_tokens_per_second"] == 1.0
    assert of_torch["ours"]["mfu"] is None


def test_mfu_is_of_the_timed_steps():
    about = {"peak_tflops": 1e-10}
    result = summary(Case("eisv", "small-8k", 8, backend="torch"), [(report([1.0, 4.0], [1, 1], **about),) * 2])
    # 100 operations in 5 s on a device that makes 100 in one.
    assert result["ours"]["mfu"] == pytest.approx(0.2)


class Asked:
    """Stands for the workers: remembers what it was asked for."""

    def __init__(self, steps=(1.0,)):
        self.specs, self.steps = [], list(steps)

    def __call__(self, backend, spec):
        self.specs.append(spec)
        return report(self.steps, [10] * len(self.steps))


def test_sides_take_turns_and_packing_shares_ours():
    asked = Asked()
    rounds = Rounds(steps=3, seed=1, warm_up=2, ask=asked)
    plain = Case("eisv", "small-8k", 4, backend="torch")
    for number in range(2):
        for case in (plain, replace(plain, packing=True)):
            rounds.run(case, number)
    assert [(spec.side, spec.packing) for spec in asked.specs] == [
        *(("theirs", False), ("ours", False), ("theirs", True)),
        *(("ours", False), ("theirs", False), ("theirs", True)),
    ]
    assert {(spec.steps, spec.rows, spec.seed) for spec in asked.specs} == {(5, 20, 1)}
    assert rounds.result(replace(plain, packing=True))["rounds"] == 2


def test_too_few_packed_steps_are_refused():
    rounds = Rounds(steps=2, seed=0, ask=Asked(steps=()))
    with pytest.raises(UserError, match="gives 2 steps"):
        rounds.run(Case("eisv", "small-8k", 1, backend="torch", packing=True), 0)


def test_both_sides_have_the_same_hyper_parameters():
    spec = Spec("ours", "eisv", CONFIG, 16, 3, 48, 0)
    config = training_config(spec)
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout, config.batch_size) == (16, 32, 0.0, 16)
    assert (config.optimizer, config.weight_decay, config.gradient_accumulation_steps) == ("adamw", 0.01, 1)


def test_shapes_of_the_promise():
    qwen = shape_config("qwen2.5-7b")
    assert (qwen["hidden_size"], qwen["intermediate_size"], qwen["num_hidden_layers"]) == (3584, 18944, 28)
    assert (qwen["num_attention_heads"], qwen["num_key_value_heads"], qwen["head_dim"]) == (28, 4, 128)
    assert (qwen["vocab_size"], qwen["tie_word_embeddings"]) == (152064, False)
    assert {case.backend for case in STANDARD["torch"]} == {"torch"}
    assert STANDARD["torch"][0] == Case("eisv", "llama-3.2-1b", 16, layers=4, hidden=256, backend="torch")


def missing(monkeypatch, name):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *rest: None if module == name else real(module))


@pytest.mark.parametrize(("backend", "module"), [("torch", "trl"), ("torch", "torch"), ("mlx", "mlx")])
def test_a_missing_rival_is_said_in_a_sentence(monkeypatch, backend, module):
    missing(monkeypatch, module)
    with pytest.raises(UserError) as error:
        RIVALS[backend].check()
    told = {"torch": "pip install 'mlx-lora[bench]'", "mlx": "use --backend torch"}
    assert told[backend] in str(error.value)


def test_the_command_says_that_trl_is_missing(refused, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['trl'] = None\n")
    sentence = refused("bench", "--backend", "torch", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert sentence.endswith("pip install 'mlx-lora[bench]'")


@pytest.mark.parametrize("options", [("--packing", "--data", "eisv"), ("--dtype", "bfloat16")])
def test_options_of_torch_are_refused_on_mlx(refused, options):
    assert f"{options[0]} is only for --backend torch" in refused("bench", "--backend", "mlx", *options)


def test_packing_wants_data(refused):
    assert "--packing goes with --data" in refused("bench", "--backend", "torch", "--packing")


def test_a_failing_side_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setitem(RIVALS, "torch", replace(RIVALS["torch"], worker="mlx_lora.bench.nothing"))
    with pytest.raises(UserError, match=r"the run of ours on eisv failed .*nothing"):
        ask_new("torch", Spec("ours", "eisv", CONFIG, 1, 1, 1, 0))


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_what_is_written_names_the_rival(monkeypatch, tmp_path, backend):
    monkeypatch.setattr("mlx_lora.bench.compare.version", lambda name: "1.2.3")
    about = {"peak_tflops": 1e-10, "device": "NVIDIA H200"} if backend == "torch" else {}
    case = Case("eisv", "small-8k", 8, backend=backend)
    results = [summary(case, [(report([1.0], [10], **about), report([2.0], [10], **about))])]
    write_results(tmp_path / "out", results, "mlx-lora bench")
    text, picture = ((tmp_path / "out" / name).read_text() for name in ("bench.md", "bench.svg"))
    rival = {"mlx": "mlx_lm.lora", "torch": "TRL's SFTTrainer"}[backend]
    assert rival in text
    assert rival.replace("'", "&#x27;") in picture
    assert title(backend) == f"mlx-lora ({backend}) / {rival}"
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert set(RIVALS[backend].versions) <= set(content["machine"])
    assert ("| MFU ours" in text) == (backend == "torch")
    assert ("- device: NVIDIA H200" in text) == (backend == "torch")
    assert len(table(results)[0]) == len(table(results)[1][0]) == 9


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL, as a system without free memory does[^%]*\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"killed by SIGSEGV\)"),
        ("sys.exit(3)", r"exit status 3; its last line: Training: 50%"),
    ],
)
def test_a_side_that_dies_is_named_by_its_end(monkeypatch, tmp_path, ending, said):
    (tmp_path / "dying.py").write_text(
        f"import os, signal, sys\nsys.stdin.readline()\nprint('Training: 50%', file=sys.stderr, flush=True)\n{ending}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RIVALS, "torch", replace(RIVALS["torch"], worker="dying"))
    with pytest.raises(UserError, match=said):
        ask_new("torch", Spec("ours", "eisv", CONFIG, 1, 1, 1, 0))


def test_the_warm_up_has_rows_of_its_own():
    rows = [Row(np.arange(10, 14 + i), 2) for i in range(6)]
    spec = Case("eisv", "small-8k", 2).spec("ours", 3, 0)
    assert spec.own_warm_up == 2
    assert spec.parts(rows) == [(rows[:4], 2), (rows[4:], 1)]
    shuffled = Case("eisv", "small-8k", 2, backend="torch").spec("theirs", 3, 0)
    assert shuffled.parts(rows) == [(rows, 3)]


def test_the_range_of_the_rounds():
    pairs = [(report([seconds], [10]), report([4.0], [10])) for seconds in (1.0, 3.0, 2.0)]
    result = summary(Case("eisv", "small-8k", 8), pairs)
    assert (result["step_time_ratio"], result["step_time_range"]) == (0.5, [0.25, 0.75])
    columns, (cells,) = table([result])
    assert cells[columns.index("rounds")] == "0.25–0.75"
