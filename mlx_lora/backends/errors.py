"""Backend errors: the error sentences that both backends share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ..errors import UserError, guarded

NO_MEMORY = (
    "there is not enough memory for this step; the last checkpoint is kept: lower batch_size or max_seq_length, "
    "or set grad_checkpoint: true"
)


def beginning_from(directory: Path) -> AbstractContextManager[None]:
    """Raise UserError if an ``init_adapter`` does not fit, from errors in the block."""
    return guarded(
        f"init_adapter {directory}: this run cannot start from it", "; use its settings, or leave init_adapter out"
    )


def fitting_its_base(directory: Path) -> AbstractContextManager[None]:
    """Raise UserError if an adapter does not fit its base, from errors in the block."""
    return guarded(f"{directory}: this adapter does not fit its base model")


def going_on_from(file: Path) -> AbstractContextManager[None]:
    """Raise UserError if a checkpoint has other parameters than the model; some architectures' differ by backend."""
    advice = "; continue with the backend that wrote it, or start over with --fresh"
    return guarded(f"{file}: this checkpoint does not fit this run", advice)


def check_full(quantized: bool, float16: bool) -> None:
    """Raise UserError if a base of this kind does not allow full fine-tuning."""
    if quantized:
        raise UserError("fine_tune_type: a quantized base cannot be trained in full; use lora, or an unquantized base")
    if float16:
        raise UserError(
            "fine_tune_type: float16 is too narrow to train a base's own values in full; "
            "use lora, or a base in bfloat16 or float32"
        )
