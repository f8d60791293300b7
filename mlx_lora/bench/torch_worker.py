"""Worker process for torch: runs our trainer or TRL's SFTTrainer, with PEFT's LoRA and completion-only loss."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import torch
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.kernels.chunked_logprob import _use_triton

from ..backends.adapter_format import initial_a
from ..backends.torch.device import find_device, pass_cost
from ..backends.torch.lora import in_mlx_layout, start_adapter, trained
from ..backends.torch.loss import find_path
from ..backends.torch.train_step import TrainStep
from .cases import Row, Spec
from .report import CLIP, MODULES, RATE, Report, Step, flops, in_our_order, timed_steps, training_config
from .torch_model import Gauge, about_device, build, device_of, finish, loss_after
from .worker import serve

# Micro-batch size that fills a large GPU; its memory does not need the small default.
GPU_TOKENS = 2**14
# TRL's default length of a packed row, in tokens; longer only for a longer example, so that none is truncated.
PACKED = 1024
# TRL's head computes its logits, recomputes them in the backward pass, then the gradient of the hidden states.
HEAD_PASSES = 3


def ours(spec: Spec, rows: list[Row]) -> Report:
    """Run our trainer and return its report."""
    config = training_config(spec, CLIP)
    device = find_device()
    if device.type == "cuda":
        config.micro_batch_tokens = GPU_TOKENS
    model = build(spec, device)
    cost = pass_cost(model, device)
    start_adapter(model, config)
    path = find_path(model)
    gauge = Gauge(device)
    step = TrainStep(model, path, config)
    steps = timed_steps(spec, rows, config, step, path, partial(finish, device), cost)
    peak = gauge.peak()
    about = {**about_device(device, model.dtype), "attention": model.config._attn_implementation}
    return Report(steps, loss_after(model, rows), peak, about)


def theirs(spec: Spec, rows: list[Row]) -> Report:
    """Run TRL's trainer on every row once, each step timed by a callback, and return its report."""
    device = device_of()
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(spec, rows, device, directory)
        counter, clock = Counter(trainer.data_collator), Clock(device)
        trainer.data_collator = counter
        trainer.add_callback(clock)
        trainer.train()
        peak = clock.gauge.peak()
    model = trainer.model.get_base_model()
    attention = model.config._attn_implementation
    steps = [
        Step(seconds, shape.flops(spec.config, _use_triton(device), "flash" in attention), shape.supervised, shape.real)
        for seconds, shape in zip(clock.seconds, counter.shapes, strict=False)
    ]
    about = {
        **about_device(device, model.dtype),
        "attention": attention,
        "loss_type": trainer.args.loss_type,
        "rows_a_step": trainer.args.per_device_train_batch_size,
        "packing": trainer.args.packing_strategy if spec.packing else None,
    }
    return Report(steps, loss_after(model, rows), peak, about)


def make_trainer(spec: Spec, rows: list[Row], device: torch.device, directory: str) -> Any:
    """Return TRL's trainer with our hyper-parameters and initial values, and its own defaults otherwise."""
    datasets.disable_progress_bars()
    ours = training_config(spec)
    if spec.in_our_order:
        rows = in_our_order(spec, rows, ours)
    model = build(spec, device)
    trainer = SFTTrainer(
        model=model,
        args=_arguments(spec, rows, model, directory),
        train_dataset=datasets.Dataset.from_dict(
            {
                "input_ids": [row.ids.tolist() for row in rows],
                "completion_mask": [[0] * row.prompt + [1] * (len(row.ids) - row.prompt) for row in rows],
            }
        ),
        processing_class=_tokenizer(),
        peft_config=LoraConfig(
            r=ours.lora_rank,
            lora_alpha=int(ours.lora_alpha),
            lora_dropout=ours.lora_dropout,
            target_modules=MODULES,
            task_type="CAUSAL_LM",
        ),
    )
    with torch.no_grad():
        # Same initial values as ours; the other matrix is zero on both sides.
        for name, value in trained(trainer.model.get_base_model()).items():
            if name.endswith(".lora_a"):
                drawn = initial_a(ours.seed, name, tuple(value.T.shape), value.shape[1])
                value.copy_(in_mlx_layout(name, torch.from_numpy(drawn)))
    return trainer


def _arguments(spec: Spec, rows: list[Row], model: Any, directory: str) -> SFTConfig:
    lengths = [len(row.ids) for row in rows]
    width, mean = max(PACKED, *lengths), sum(lengths) / len(lengths)
    # A packed row holds several examples: a step takes as many rows as hold a batch's tokens.
    packed_rows = max(1, round(spec.batch_size * mean / width))
    return SFTConfig(
        output_dir=directory,
        num_train_epochs=1,
        per_device_train_batch_size=packed_rows if spec.packing else spec.batch_size,
        max_length=width,
        packing=spec.packing,
        completion_only_loss=True,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=training_config(spec).weight_decay,
        max_grad_norm=CLIP,
        # On by default; both sides have it or neither.
        gradient_checkpointing=spec.grad_checkpoint,
        # On by default, also for float32 weights: both sides compute in the weights' dtype.
        bf16=model.dtype == torch.bfloat16,
        use_cpu=model.device.type == "cpu",
        train_sampling_strategy="sequential"
        if spec.in_our_order
        else ("group_by_length" if spec.by_length else "random"),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a dummy tokenizer: TRL requires one for the padding id, though the rows are token ids already."""
    words = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>")


class Clock(TrainerCallback):
    """Training callback that times each optimizer step from a ready batch on; the memory meter starts at the first."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.started = 0.0
        self.gauge: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, and at the first step the memory meter."""
        self.gauge = self.gauge or Gauge(self.device)
        finish(self.device)
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the duration of the step in seconds."""
        finish(self.device)
        self.seconds.append(time.perf_counter() - self.started)


@dataclass
class Shape:
    """Shape of the batch that TRL's trainer computes in a step.

    Attributes:
        rows: rows of the batch, or 1 if several are concatenated.
        length: tokens of a row, padding included.
        examples: tokens of each example.
        supervised: tokens with a loss.
    """

    rows: int
    length: int
    examples: list[int]
    supervised: int

    @property
    def real(self) -> int:
        """Tokens of the examples, without padding."""
        return sum(self.examples)

    def flops(self, config: dict[str, Any], triton: bool, varlen: bool) -> float:
        """Return the FLOPs of the step.

        Args:
            triton: True if Triton is used: the head sees supervised positions only, else all but the last of each row.
            varlen: True if attention uses the bounds of examples, instead of masking all pairs of a row.
        """
        head = self.supervised if triton else self.rows * (self.length - 1)
        pairs = sum(n * n for n in self.examples) if varlen else self.rows * self.length**2
        return flops(config, self.rows * self.length, head, pairs, head_passes=HEAD_PASSES)


class Counter:
    """Wrapper of TRL's collator that records the shape of each batch."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collator = collator
        self.shapes: list[Shape] = []

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples and record the shape of the batch."""
        batch = self.collator(examples)
        rows, length = batch["input_ids"].shape
        packed = [n for example in examples for n in example.get("seq_lengths", [len(example["input_ids"])])]
        supervised = int((batch["labels"][:, 1:] != -100).sum())
        self.shapes.append(Shape(rows, length, packed, supervised))
        return batch


if __name__ == "__main__":
    serve({"ours": ours, "theirs": theirs})
