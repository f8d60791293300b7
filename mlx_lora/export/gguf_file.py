"""From a run to a verified GGUF file: converted, quantized if asked for, checked, then given its name."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from ..data.chat_template import serving_notes
from .checks import Check, Report, check_space, new_file, refuse_existing, settle
from .convert import HEADER_BYTES, Plan, plan, write_gguf
from .llamacpp.run import LlamaCppFailed, check_available
from .pieces import TYPES
from .quantize import BITS, OTHER_BITS, check_type, quantized
from .reference import own_logits, reference_of
from .reopen import content_checks, open_gguf, type_checks
from .source import Source, read_source
from .verify import run_checks
from .vocabulary import read_vocabulary
from .weights import Weight

# What quantized types are made from: nothing is lost on the way that the type itself would keep.
BETWEEN = "f16"


def export_gguf(
    name: str, out: str | Path, kind: str = "f16", progress: Callable[[float], None] = lambda share: None
) -> Report:
    """Write the model of a run (or a base model) as GGUF, and check it in llama.cpp against the adapter in MLX.

    Args:
        name: a run directory, or a base model by name or directory.
        kind: f32, f16, bf16, q8_0, or a type that llama.cpp quantizes to, such as q4_k_m.
        progress: told which share of the work is done, from 0 to 1.

    Raises:
        UserError: bad input, or no llama.cpp (nothing is written then), a full disk, something at ``out`` already.
    """
    out = Path(out)
    refuse_existing(out)
    check_available()
    check_type(kind)
    source = read_source(name)
    planned = plan(source, kind if kind in TYPES else BETWEEN)
    check_space(out, _needed(planned, kind))
    # The reference first: it says in seconds what is wrong with a run, and its memory is free again before the rest.
    backend = source.load()
    reference, tokenizer = reference_of(source, backend), backend.tokenizer
    del backend
    gc.collect()
    vocabulary = read_vocabulary(tokenizer, planned.rows, source.model.name, reference.end_of_turn)
    with new_file(out) as temporary:
        # The other file has the end of this one's name, so that it too goes if the block fails.
        full = temporary if kind in TYPES else temporary.with_name(f"{temporary.name}.{BETWEEN}")
        checks: list[Check] = []
        notes = [*_notes(source, planned), *serving_notes(tokenizer, source.run.get("system_prompt"))]
        try:
            write_gguf(planned, vocabulary, full, lambda done: progress(0.8 * done / planned.weight_bytes))
            if kind in TYPES:
                opened = open_gguf(full)
                checks += [*content_checks(opened, planned, vocabulary), *type_checks(opened, planned)]
                own = None
            else:
                found, said = quantized(full, temporary, kind, planned)
                opened = open_gguf(temporary)
                checks += [*content_checks(opened, planned, vocabulary), *found]
                notes += said
                own = own_logits(planned, opened, reference)
            progress(0.9)
            found, said = run_checks(temporary, kind, reference, vocabulary, tokenizer, opened.template, own)
            checks, notes = [*checks, *found], [*notes, *said]
        except LlamaCppFailed as error:
            checks.append(Check("llama.cpp quantizes it", str(error), "yes", False))
            if not temporary.exists():
                full.rename(temporary)
        finally:
            if full != temporary:
                full.unlink(missing_ok=True)
        progress(1.0)
        return settle(temporary, out, checks, notes)


def _needed(planned: Plan, kind: str) -> int:
    """Bytes on the disk while it is made."""
    size = planned.weight_bytes + HEADER_BYTES
    if kind in TYPES:
        return size
    bits = {"f32": 32.0, "f16": 16.0}[BETWEEN]
    return int(size * (1 + 1.25 * BITS.get(kind, OTHER_BITS) / bits))


def _notes(source: Source, planned: Plan) -> list[str]:
    if any(weight is not None and _is_quantized(weight) for _, _, weight in planned.tensors):
        return [f"{source.model.name} is quantized itself: its weights were dequantized, with the error they have"]
    return []


def _is_quantized(weight: Weight) -> bool:
    return weight.quantized is not None
