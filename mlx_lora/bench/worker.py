"""One side of a comparison in a process of its own: ``python -m mlx_lora.bench.worker '{"side": "ours", ...}'``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx_lora.backends.mlx as mlx_backend  # first: it loads a fast BLAS before MLX, for both sides

# isort: split
import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import _get_classes

from ..backends.mlx.lora import load_weights, start_adapter
from ..backends.mlx.loss import BatchArrays, find_path, plain_loss_sums
from ..backends.mlx.step import TrainStep
from ..config import TrainingConfig
from ..data.batches import collate
from ..training.trainer import training_steps
from .rows import Row, make_rows
from .shapes import body_parameters

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
RATE = 1e-3
# Rows whose loss both sides are asked for afterwards.
JUDGED = 32


def build(config: dict[str, Any]) -> Any:
    """A model of a config with random weights, frozen."""
    model_class, arguments = _get_classes(config)
    mx.random.seed(0)
    model = model_class(arguments.from_dict(config))
    mx.eval(model.parameters())
    model.freeze()
    return model


def flops(config: dict[str, Any], body: int, head: int, attended: int, narrow: bool = False) -> float:
    """Multiplications and additions of a step, in units of a forward pass's: frozen weights cost 2 passes.

    Args:
        body: tokens through the layers.
        head: positions through the head.
        attended: (query, key) pairs, summed over rows.
        narrow: the last layer's MLP sees ``head`` positions only.
    """
    mlp = 3 * config["hidden_size"] * config["intermediate_size"] if narrow else 0
    logits = config["hidden_size"] * config["vocab_size"]
    matrices = 2 * 2 * (body * (body_parameters(config) - mlp) + head * (logits + mlp))
    width = config["num_attention_heads"] * config["head_dim"]
    return matrices + 3 * 2 * 2 * attended * width * config["num_hidden_layers"]


def ours(spec: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    config = TrainingConfig(
        lora_rank=16,
        lora_alpha=32,
        lora_dropout=0.0,
        lora_target_modules=MODULES,
        batch_size=spec["batch_size"],
        gradient_accumulation_steps=1,
        grad_checkpoint=spec["grad_checkpoint"],
    )
    model = build(spec["config"])
    start_adapter(model, config)
    if config.grad_checkpoint:
        from ..backends.mlx.checkpointing import checkpoint_layers

        checkpoint_layers(model)
    path = find_path(model)
    step = TrainStep(model, path, config)
    examples = [row.encoded() for row in rows]
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    times, counted, supervised, real = [], [], 0, 0
    steps = training_steps(config, examples)
    for number in range(1, spec["steps"] + 1):
        _, members, micro_batches = next(steps)
        real += sum(len(examples[i]) for batch in members for i in batch)
        started = time.perf_counter()
        step(micro_batches, number, RATE)
        times.append(time.perf_counter() - started)
        for batch in micro_batches:
            count, length = batch.ids.shape
            prefix = len(batch.prefix)
            pairs = prefix * prefix + count * length * (prefix + length)
            head = len(batch.positions)
            counted.append(flops(spec["config"], prefix + count * length, head, pairs, path.narrow))
            supervised += batch.tokens
    return _report(model, rows, times, counted, supervised, real, mx.get_peak_memory() - weights)


class Rows:
    """A dataset as mlx-lm's trainer takes it."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"messages": self.rows[index]}

    def process(self, row: dict[str, Any]) -> tuple[list[int], int]:
        return row["messages"].ids.tolist(), row["messages"].prompt


class Timer:
    """mlx-lm's callback: its own measurement of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        self.times.append(1 / info["iterations_per_second"])

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        pass


def theirs(spec: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    model = build(spec["config"])
    keys = [f"self_attn.{name}" for name in MODULES]
    linear_to_lora_layers(model, len(model.layers), {"rank": 16, "scale": 2.0, "dropout": 0.0, "keys": keys})
    # The very same initial values as ours.
    twin = build(spec["config"])
    start_adapter(twin, TrainingConfig(lora_rank=16, lora_dropout=0.0, lora_target_modules=MODULES))
    load_weights(model, dict(tree_flatten(twin.trainable_parameters())))
    del twin
    mx.eval(model.parameters())
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    timer, size = Timer(), spec["batch_size"]
    batches: list[Any] = []

    def counted_batches(*arguments: Any, **options: Any) -> Any:
        for batch, lengths in iterate_batches(*arguments, **options):
            batches.append((batch.shape, lengths))
            yield batch, lengths

    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArgs(
            batch_size=size,
            iters=spec["steps"],
            val_batches=0,
            steps_per_report=1,
            steps_per_eval=10**9,
            steps_per_save=10**9,
            max_seq_length=8192,
            adapter_file=str(Path(directory) / "adapters.safetensors"),
            grad_checkpoint=spec["grad_checkpoint"],
        )
        optimizer = optim.AdamW(learning_rate=RATE, weight_decay=0.01, bias_correction=True)
        train(
            *(model, optimizer, CacheDataset(Rows(rows)), None, arguments),
            training_callback=timer,
            iterate_batches=counted_batches,
        )
    done = batches[: spec["steps"]]
    counted = [
        flops(spec["config"], b * (length - 1), b * (length - 1), b * (length - 1) ** 2) for (b, length), _ in done
    ]
    supervised = sum(int((lengths[:, 1] - lengths[:, 0]).sum().item()) for _, lengths in done)
    real = sum(int(lengths[:, 1].sum().item()) for _, lengths in done)
    return _report(model, rows, timer.times, counted, supervised, real, mx.get_peak_memory() - weights)


def _report(
    model: Any, rows: list[Row], times: list[float], counted: list[float], supervised: int, real: int, peak: int
) -> dict[str, Any]:
    return {
        "times": times,
        "loss": loss_after(model, rows),
        "flops": sum(counted),
        "supervised_tokens": supervised,
        "real_tokens": real,
        "peak_bytes": peak,
        "fast_blas": mlx_backend.FAST_BLAS,
    }


def loss_after(model: Any, rows: list[Row]) -> float:
    """Mean loss over the answers of the first rows, by the plain computation, whoever trained."""
    model.eval()
    batches = [BatchArrays.of(collate([row.encoded()])) for row in rows[:JUDGED]]
    plain = [float(plain_loss_sums(model, batch)[1]) for batch in batches]
    return sum(plain) / sum(len(row.ids) - row.prompt for row in rows[:JUDGED])


def main() -> None:
    spec = json.loads(sys.argv[1])
    rows = make_rows(spec["data"], spec["rows"], spec["config"]["vocab_size"], spec["seed"])
    report = {"ours": ours, "theirs": theirs}[spec["side"]](spec, rows)
    Path(spec["out"]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
