"""Worker process for torch: runs our trainer or TRL's SFTTrainer."""

from __future__ import annotations

from functools import partial

from ..backends.torch.device import find_device
from ..backends.torch.lora import start_adapter
from ..backends.torch.loss import find_path
from ..backends.torch.train_step import TrainStep
from .memory_meter import Gauge, about_device, finish
from .mlx_lora_runner import timed_steps
from .report import CLIP, Report, Spec, serve, training_config
from .synthetic_data import Row
from .torch_model import build, loss_after

# Micro-batch size that fills a large GPU; its memory does not need the small default.
GPU_TOKENS = 2**14


def ours(spec: Spec, rows: list[Row]) -> Report:
    """Run our trainer and return its report."""
    config = training_config(spec, CLIP)
    device = find_device()
    if device.type == "cuda":
        config.micro_batch_tokens = GPU_TOKENS
    model = build(spec, device)
    start_adapter(model, config)
    path = find_path(model)
    gauge = Gauge(device)
    step = TrainStep(model, path, config)
    steps = timed_steps(spec, rows, config, step, path, partial(finish, device))
    peak = gauge.peak()
    about = {**about_device(device, model.dtype), "attention": model.config._attn_implementation}
    return Report(steps, loss_after(model, rows), peak, about)


def theirs(spec: Spec, rows: list[Row]) -> Report:
    """Run TRL's trainer and return its report."""
    from .trl_runner import train

    return train(spec, rows)


if __name__ == "__main__":
    serve({"ours": ours, "theirs": theirs})
