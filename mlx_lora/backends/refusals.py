"""What every backend refuses, in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ..errors import UserError, first_line

NO_MEMORY = (
    "there is not enough memory for this step; the last checkpoint is kept: lower batch_size or max_seq_length, "
    "or set grad_checkpoint: true"
)
# What reading arrays, and putting them into a model, raises where they are others than expected.
UNFIT = (ValueError, KeyError, TypeError, OSError)


@contextmanager
def _fitting(said: str, advice: str = "", unfit: tuple[type[Exception], ...] = UNFIT) -> Iterator[None]:
    try:
        yield
    except unfit as error:
        raise UserError(f"{said} ({first_line(error, 2)}){advice}") from error


def beginning_from(directory: Path) -> AbstractContextManager[None]:
    """Says so if an ``init_adapter`` does not fit."""
    advice = "; use its settings, or leave init_adapter out"
    return _fitting(f"init_adapter {directory}: this run cannot start from it", advice)


def fitting_its_base(directory: Path) -> AbstractContextManager[None]:
    """Says so if an adapter is not one for this base."""
    return _fitting(f"{directory}: this adapter does not fit its base model")


def going_on_from(file: Path) -> AbstractContextManager[None]:
    """Says so if a checkpoint is of other parameters than the model's: some architectures' differ by backend."""
    advice = "; go on with the backend that wrote it, or start over with --fresh"
    return _fitting(f"{file}: this checkpoint does not fit this run", advice, (ValueError, KeyError))


def check_full(quantized: bool, float16: bool) -> None:
    """Raises UserError if a base of this kind cannot be trained in full."""
    if quantized:
        raise UserError("fine_tune_type: a quantized base cannot be trained in full; use lora, or an unquantized base")
    if float16:
        raise UserError(
            "fine_tune_type: float16 is too narrow to train a base's own values in full; "
            "use lora, or a base in bfloat16 or float32"
        )
