"""Worker process for MLX: runs our trainer or mlx-lm's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mlx_lora.backends.mlx as mlx_backend  # first: it loads a fast BLAS before MLX, for both sides

# isort: split
import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, iterate_batches, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import _get_classes

from ..backends.mlx.lora import load_weights, start_adapter
from ..backends.mlx.loss import BatchArrays, find_path, plain_loss_sums
from ..backends.mlx.train_step import TrainStep
from ..data.collate import collate
from .cases import Row, Spec
from .report import JUDGED, MODULES, RATE, Report, Step, first_loss, flops, timed_steps, training_config
from .worker import serve


def build(config: dict[str, Any]) -> Any:
    """Return a frozen model of a config with random weights."""
    model_class, arguments = _get_classes(config)
    mx.random.seed(0)
    model = model_class(arguments.from_dict(config))
    mx.eval(model.parameters())
    model.freeze()
    return model


def ours(spec: Spec, rows: list[Row]) -> Report:
    """Run our trainer and return its report."""
    config = training_config(spec)
    model = build(spec.config)
    start_adapter(model, config)
    if config.grad_checkpoint:
        from ..backends.mlx.gradient_checkpointing import checkpoint_layers

        checkpoint_layers(model)
    path = find_path(model)
    before = {"ours": first_loss(spec, judged(spec, rows), config, TrainStep(model, path, config))}
    step = TrainStep(model, path, config)
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    steps = timed_steps(spec, rows, config, step, path)
    return _report(model, rows, steps, mx.get_peak_memory() - weights, before)


def judged(spec: Spec, rows: list[Row]) -> list[Row]:
    """Return the first rows, a whole number of batches."""
    return rows[: max(1, JUDGED // spec.batch_size) * spec.batch_size]


class Rows:
    """Dataset in the form that mlx-lm's trainer expects."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"messages": self.rows[index]}

    def process(self, row: dict[str, Any]) -> tuple[list[int], int]:
        """Return (token ids, length of the prompt) of a row."""
        return row["messages"].ids.tolist(), row["messages"].prompt


class Timer:
    """Training callback of mlx-lm: its own measurement of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        """Record the duration of a step in seconds."""
        self.times.append(1 / info["iterations_per_second"])

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """Ignore validation reports."""


def theirs(spec: Spec, rows: list[Row]) -> Report:
    """Run mlx-lm's trainer and return its report."""
    model = build(spec.config)
    keys = [f"self_attn.{name}" for name in MODULES]
    linear_to_lora_layers(model, len(model.layers), {"rank": 16, "scale": 2.0, "dropout": 0.0, "keys": keys})
    # Same initial values as ours.
    twin = build(spec.config)
    start_adapter(twin, training_config(spec))
    load_weights(model, dict(tree_flatten(twin.trainable_parameters())))
    del twin
    mx.eval(model.parameters())
    before = their_first_losses(model, spec, judged(spec, rows))
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    timer, batches = Timer(), list[Any]()

    def counted_batches(**options: Any) -> Any:
        for part, _ in spec.parts(rows):
            taken = sorted(part, key=lambda row: len(row.ids)) if spec.by_length else part
            for batch, lengths in iterate_batches(**{**options, "dataset": dataset_of(taken), "loop": False}):
                batches.append((batch.shape, lengths))
                yield batch, lengths

    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArgs(
            batch_size=spec.batch_size,
            iters=spec.steps,
            val_batches=0,
            steps_per_report=1,
            steps_per_eval=10**9,
            steps_per_save=10**9,
            max_seq_length=8192,
            adapter_file=str(Path(directory) / "adapters.safetensors"),
            grad_checkpoint=spec.grad_checkpoint,
        )
        optimizer = optim.AdamW(learning_rate=RATE, weight_decay=0.01, bias_correction=True)
        train(
            *(model, optimizer, dataset_of(rows), None, arguments),
            training_callback=timer,
            iterate_batches=counted_batches,
        )
    steps = [
        Step(
            seconds=seconds,
            flops=flops(spec.config, count * (length - 1), count * (length - 1), count * (length - 1) ** 2),
            supervised=int((lengths[:, 1] - lengths[:, 0]).sum().item()),
            real=int(lengths[:, 1].sum().item()),
        )
        for seconds, ((count, length), lengths) in zip(timer.times, batches, strict=False)
    ]
    return _report(model, rows, steps, mx.get_peak_memory() - weights, before)


def dataset_of(rows: list[Row]) -> CacheDataset:
    """Return rows in the dataset that mlx-lm's commands pass to its trainer.

    mlx-lm intends to sort them by length, but uses the number of keys of an unprocessed row: they keep their order.
    """
    return CacheDataset(Rows(rows))


def their_first_losses(model: Any, spec: Spec, rows: list[Row]) -> dict[str, float]:
    """Return mlx-lm's own mean loss over the answers, with and without the padding after each that it trains."""
    sums = {"theirs": 0.0, "theirs_without_padding": 0.0}
    counts = dict(sums)
    for batch, lengths in iterate_batches(dataset_of(rows), spec.batch_size, 8192):
        for name, ends in (("theirs", lengths), ("theirs_without_padding", lengths - mx.array([0, 1]))):
            mean, tokens = default_loss(model, batch, ends)
            sums[name] += float(mean) * int(tokens)
            counts[name] += int(tokens)
    return {name: sums[name] / counts[name] for name in sums}


def _report(model: Any, rows: list[Row], steps: list[Step], peak: int, before: dict[str, float]) -> Report:
    about = {"fast_blas": mlx_backend.SLOW_BLAS is None}
    return Report(steps, loss_after(model, rows), peak, about, first_losses=before)


def loss_after(model: Any, rows: list[Row]) -> float:
    """Return the mean loss over the answers of the first rows, by the plain computation for both sides."""
    model.eval()
    batches = [BatchArrays.of(collate([row.encoded()])) for row in rows[:JUDGED]]
    plain = [float(plain_loss_sums(model, batch)[1]) for batch in batches]
    return sum(plain) / sum(len(row.ids) - row.prompt for row in rows[:JUDGED])


if __name__ == "__main__":
    serve({"ours": ours, "theirs": theirs})
