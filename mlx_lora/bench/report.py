"""Report of a side, the FLOP count of a step, and the timed training loop of our side over either backend's step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..backends.loss_plan import LossPath
from ..config import TrainingConfig
from ..data.collate import Batch, with_same_prefix
from ..data.parts import SMALL, PassCost
from ..training.trainer import training_steps
from .cases import WARM_UP, Row, Spec, body_parameters

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
RATE = 1e-3
# Gradient clipping norm, where a baseline clips by default.
CLIP = 1.0
# Rows on which both sides report their loss after training.
JUDGED = 32


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


def timed_steps(
    spec: Spec,
    rows: list[Row],
    config: TrainingConfig,
    step: Callable[..., Any],
    path: LossPath,
    finish: Callable[[], None] = lambda: None,
    cost: PassCost = SMALL,
) -> list[Step]:
    """Train for the spec's steps and return each step with its time.

    Args:
        step: a backend's ``TrainStep``.
        finish: waits until the device has finished all work.
        cost: the backend's overhead of a pass.
    """
    done: list[Step] = []
    for part, count in spec.parts(rows):
        examples = [row.encoded() for row in part]
        steps = training_steps(config, examples, cost=cost)
        for _ in range(count):
            _, members, micro_batches = next(steps)
            started = time.perf_counter()
            step(micro_batches, len(done) + 1, RATE)
            finish()
            flops = sum(
                batch_flops(spec.config, batch, path, again=number > 0)
                for together in with_same_prefix(micro_batches)
                for number, batch in enumerate(together)
            )
            done.append(
                Step(
                    seconds=time.perf_counter() - started,
                    flops=flops,
                    supervised=sum(batch.tokens for batch in micro_batches),
                    real=sum(len(examples[i]) for batch in members for i in batch),
                )
            )
    return done


def first_loss(spec: Spec, rows: list[Row], config: TrainingConfig, step: Callable[..., Any]) -> float:
    """Return the mean loss over the answers of rows as our step computes it, at learning rate 0.

    Args:
        step: a ``TrainStep`` that is not used again, since its optimizer state has changed.
    """
    steps = training_steps(config, [row.encoded() for row in rows])
    results = [step(next(steps)[2], number + 1, 0.0) for number in range(len(rows) // spec.batch_size)]
    return sum(result.plain_loss * result.tokens for result in results) / sum(result.tokens for result in results)


def in_our_order(spec: Spec, rows: list[Row], config: TrainingConfig) -> list[Row]:
    """Return the rows in the order of our steps."""
    steps = training_steps(config, [row.encoded() for row in rows])
    taken = [next(steps)[1] for _ in range(spec.steps)]
    return [rows[i] for members in taken for batch in members for i in batch]
