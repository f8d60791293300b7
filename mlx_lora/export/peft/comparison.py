"""PEFT comparison: PEFT's logits against MLX's for an exported or imported adapter, if PEFT is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..adapter import is_quantized
from ..logit_metrics import LIMITS, compare_logits
from ..reference import Reference, adapter_logits
from ..resources import fits_float32
from ..source import Source
from ..verification import ExportCheck, at_most
from .process import PeftFailed, ask, has_peft

NAME = "difference of PEFT's logits (RMS, in their spread)"


def compare_with_peft(source: Source, reference: Reference, directory: Path) -> tuple[list[ExportCheck], list[str]]:
    """Run a PEFT directory in PEFT; return the checks and the notes for the user.

    Args:
        source: the same adapter as a run.
        reference: its logits in MLX.
    """
    if not has_peft():
        return [], ["PEFT itself was not asked, since it is not installed here (`pip install 'mlx-lora[torch]'`)"]
    if is_quantized(source.model.path):
        return [], ["PEFT itself was not asked, since transformers cannot load a base that MLX quantized"]
    if not fits_float32(source):
        return [], ["PEFT itself was not asked, since the base in float32 takes more than half of the memory"]
    with tempfile.TemporaryDirectory(prefix="mlx-lora-") as folder:
        request = {
            "action": "logits",
            "base": str(source.model.path.absolute()),
            "adapter": str(directory.absolute()),
            "prompts": reference.prompts,
            "positions": reference.positions,
            "out": folder,
        }
        try:
            failed = ask(request)
        except PeftFailed as error:
            return [], [f"PEFT itself gave no answer ({error})"]
        if failed["base"]:
            return [], [f"PEFT itself was not asked, since transformers cannot load the base ({failed['base']})"]
        if failed["adapter"]:
            return [ExportCheck("runs in PEFT", failed["adapter"], "yes", False)], []
        with_adapter, alone = (_answers(Path(folder), name, reference) for name in ("adapter", "base"))
    return _compared(source, reference, with_adapter, alone)


def _answers(folder: Path, name: str, reference: Reference) -> list[np.ndarray]:
    return [np.load(folder / f"{name}-{i}.npy") for i in range(len(reference.prompts))]


def _compared(
    source: Source, reference: Reference, with_adapter: Sequence[np.ndarray], alone: Sequence[np.ndarray]
) -> tuple[list[ExportCheck], list[str]]:
    found, limit = compare_logits(reference.logits, with_adapter).relative, LIMITS["f32"].relative
    if found <= limit:
        return [at_most(NAME, found, limit)], []
    # The two libraries may differ on the base itself, which is not an error of the adapter.
    base = adapter_logits(replace(source, adapter=None), reference.prompts, reference.positions)
    own = compare_logits(base, alone).relative
    if own <= limit:
        return [at_most(NAME, found, limit)], []
    note = f"transformers and mlx-lm differ by {own:.2g} on the base alone; PEFT's logits may differ by twice that"
    return [at_most(NAME, found, 2 * own)], [note]
