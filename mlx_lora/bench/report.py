"""What a side of a comparison is asked for and what it reports, and the arithmetic of a step, counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..backends.paths import LossPath
from ..config import TrainingConfig
from ..data.batches import Batch
from .rows import Row, make_rows
from .shapes import body_parameters

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
RATE = 1e-3
# Gradients longer than this are shortened, where a rival does so by default.
CLIP = 1.0
# Rows whose loss both sides are asked for afterwards.
JUDGED = 32


@dataclass
class Spec:
    """One side's task.

    Attributes:
        side: ``ours`` or ``theirs``.
        config: a model's config.json.
        steps: optimizer steps of ``batch_size`` rows each; with ``packing`` as many as the same rows give.
        rows: how many rows of ``data`` are drawn.
        packing: the rival puts several rows into one (torch).
        dtype: of the base's weights; ``None`` is float32 on the CPU and bfloat16 on CUDA (torch).
        in_our_order: the rival takes the rows as we do, instead of as it shuffles them (torch).
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


@dataclass
class Step:
    """An optimizer step as it was timed.

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
    """What a side did.

    Attributes:
        loss: mean over the answers of the first rows afterwards, by the plain computation.
        peak_bytes: the most memory in use above the weights.
        about: what else should be known of the side.
    """

    steps: list[Step]
    loss: float
    peak_bytes: int
    about: dict[str, Any] = field(default_factory=dict)


def training_config(spec: Spec, clip: float | None = None) -> TrainingConfig:
    """The hyper-parameters of a comparison, as ours."""
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
    """Multiplications and additions of a step's products, forward and backward; the adapter's own are left out.

    A product with a frozen weight is made twice, a product of attention three times. What checkpointing computes
    again is not counted.

    Args:
        body: tokens through the layers.
        head: positions through the head.
        attended: (query, key) pairs, summed over rows.
        narrowed: tokens through the last layer's MLP, if not all.
        head_passes: how often the head's product is made: a third time where logits are computed again.
    """
    mlp = 3 * config["hidden_size"] * config["intermediate_size"]
    logits = config["hidden_size"] * config["vocab_size"]
    last = 0 if narrowed is None else (narrowed - body) * mlp
    matrices = 2 * (2 * (body * body_parameters(config) + last) + head_passes * head * logits)
    width = config["num_attention_heads"] * config["head_dim"]
    return matrices + 3 * 2 * 2 * attended * width * config["num_hidden_layers"]


def batch_flops(config: dict[str, Any], batch: Batch, path: LossPath) -> float:
    """``flops`` of one of our micro-batches, computed as the path says."""
    (count, length), prefix = batch.ids.shape, len(batch.prefix)
    if path.share_prefix:
        body, pairs = prefix + count * length, prefix * prefix + count * length * (prefix + length)
    else:
        body, pairs = count * (prefix + length), count * (prefix + length) ** 2
    if path.plain:
        return flops(config, body, body, pairs)
    head = len(batch.positions)
    return flops(config, body, head, pairs, head if path.narrow else None)


def run_worker(sides: dict[str, Callable[[Spec, list[Row]], Report]]) -> None:
    """The main function of a worker: ``python -m WORKER SPEC FILE`` writes the report of a spec, both JSON."""
    spec = Spec(**json.loads(sys.argv[1]))
    rows = make_rows(spec.data, spec.rows, spec.config["vocab_size"], spec.seed)
    report = sides[spec.side](spec, rows)
    Path(sys.argv[2]).write_text(json.dumps(asdict(report)), encoding="utf-8")


def read_report(file: Path) -> Report:
    """What ``run_worker`` wrote."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return Report(**{**content, "steps": [Step(**step) for step in content["steps"]]})
