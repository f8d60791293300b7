"""Spec and report of a worker process, and the FLOP count of a step."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..backends.loss_plan import LossPath
from ..config import TrainingConfig
from ..data.collate import Batch
from .model_shapes import body_parameters
from .synthetic_data import Row, make_rows

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
RATE = 1e-3
# Gradient clipping norm, where a baseline clips by default.
CLIP = 1.0
# Warm-up steps (compilation, caches), excluded on both sides.
WARM_UP = 2
# Rows on which both sides report their loss after training.
JUDGED = 32


@dataclass
class Spec:
    """Task of one side.

    Attributes:
        side: ``ours`` or ``theirs``.
        config: a model's config.json.
        steps: optimizer steps of ``batch_size`` rows each; with ``packing``, as many as the same rows fill.
        rows: number of rows drawn from ``data``.
        packing: the baseline packs several rows into one (torch).
        dtype: dtype of the base's weights; ``None`` is float32 on the CPU and bfloat16 on CUDA (torch).
        in_our_order: the baseline takes the rows in our order, instead of its own shuffle (torch).
        own_warm_up: the first steps take the first rows, and the steps after them the others, on both sides; otherwise
            each side takes all rows in its own order.
        by_length: the baseline's batches are bucketed by length.
    """

    side: str
    data: str
    config: dict[str, Any]
    batch_size: int
    steps: int
    rows: int
    seed: int
    grad_checkpoint: bool = False
    packing: bool = False
    dtype: str | None = None
    in_our_order: bool = False
    own_warm_up: int = 0
    by_length: bool = False

    def parts(self, rows: list[Row]) -> list[tuple[list[Row], int]]:
        """Return the warm-up rows and the timed rows, each with the number of steps."""
        warm = self.own_warm_up
        parts = [(rows[: warm * self.batch_size], warm), (rows[warm * self.batch_size :], self.steps - warm)]
        return [part for part in parts if part[1]]


@dataclass
class Step:
    """Timed optimizer step.

    Attributes:
        flops: multiplications and additions, as ``flops`` counts them.
        supervised: tokens with a loss.
        real: tokens of the examples, padding left out.
    """

    seconds: float
    flops: float
    supervised: int
    real: int


@dataclass
class Report:
    """Report of a side.

    Attributes:
        loss: mean over the answers of the first rows after training, by the plain computation.
        first_losses: means of the side's own loss over those rows before training, by name.
        peak_bytes: peak memory above the weights.
        about: further facts about the side.
        warm_up: number of first steps that are not timed.
    """

    steps: list[Step]
    loss: float
    peak_bytes: int
    about: dict[str, Any] = field(default_factory=dict)
    warm_up: int = WARM_UP
    first_losses: dict[str, float] = field(default_factory=dict)

    @property
    def timed(self) -> list[Step]:
        """Steps after the warm-up."""
        return self.steps[self.warm_up :]

    @property
    def step_seconds(self) -> float:
        """Mean seconds per step: lengths differ from step to step, but each side's sum is over the same examples."""
        return sum(step.seconds for step in self.timed) / len(self.timed)

    @property
    def token_seconds(self) -> float:
        """Seconds per 1000 real tokens, whatever a step holds."""
        return 1000 * sum(step.seconds for step in self.timed) / sum(step.real for step in self.timed)

    @property
    def token_flops(self) -> float:
        """FLOPs per real token, over all steps: both sides see the same examples."""
        return sum(step.flops for step in self.steps) / sum(step.real for step in self.steps)


def training_config(spec: Spec, clip: float | None = None) -> TrainingConfig:
    """Return the hyper-parameters of a comparison as our training config."""
    return TrainingConfig(
        lora_rank=16,
        lora_alpha=32,
        lora_dropout=0.0,
        lora_target_modules=MODULES,
        batch_size=spec.batch_size,
        gradient_accumulation_steps=1,
        grad_checkpoint=spec.grad_checkpoint,
        grad_clip=clip,
    )


def flops(
    config: dict[str, Any], body: int, head: int, attended: int, narrowed: int | None = None, head_passes: int = 2
) -> float:
    """Return the FLOPs of a step's matrix products, forward and backward, without the adapter's own.

    A product with a frozen weight counts twice, a product of attention three times. Recomputation by gradient
    checkpointing does not count.

    Args:
        body: tokens through the layers.
        head: positions through the head.
        attended: (query, key) pairs, summed over rows.
        narrowed: tokens through the last layer's MLP, if not all.
        head_passes: number of products of the head: three where logits are recomputed.
    """
    mlp = 3 * config["hidden_size"] * config["intermediate_size"]
    logits = config["hidden_size"] * config["vocab_size"]
    last = 0 if narrowed is None else (narrowed - body) * mlp
    matrices = 2 * (2 * (body * body_parameters(config) + last) + head_passes * head * logits)
    width = config["num_attention_heads"] * config["head_dim"]
    return matrices + 3 * 2 * 2 * attended * width * config["num_hidden_layers"]


def batch_flops(config: dict[str, Any], batch: Batch, path: LossPath, again: bool = False) -> float:
    """Return the ``flops`` of one of our micro-batches, computed by the loss path.

    Args:
        again: True if its prefix was counted with another micro-batch of the step.
    """
    (count, length), prefix = batch.ids.shape, len(batch.prefix)
    if path.share_prefix:
        once = 0 if again else prefix
        body, pairs = once + count * length, once * prefix + count * length * (prefix + length)
    else:
        body, pairs = count * (prefix + length), count * (prefix + length) ** 2
    if path.plain:
        return flops(config, body, body, pairs)
    head = len(batch.positions)
    return flops(config, body, head, pairs, head if path.narrow else None)


def serve(sides: dict[str, Callable[[Spec, list[Row]], Report]]) -> None:
    """Serve specs as a worker's main function: one per line on standard input, one report per line on standard output.

    A failure is answered with ``{"error": ...}``. Both are JSON; the output of a trainer goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        spec = Spec(**json.loads(line))
        rows = make_rows(spec.data, spec.rows, spec.config["vocab_size"], spec.seed)
        try:
            answer = asdict(sides[spec.side](spec, rows))
        except Exception as error:  # any error of a library: the comparison reports it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def report_of(answer: dict[str, Any]) -> Report:
    """Return the report from an answer of ``serve``."""
    return Report(**{**answer, "steps": [Step(**step) for step in answer["steps"]]})
