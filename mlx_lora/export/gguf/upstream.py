"""GGUF export through upstream's converter, for architectures and tokenizers that the writer does not support."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from ...data.chat_template import serving_notes
from ...engines.llamacpp.run import LlamaCppFailed
from ...models.tokenizer import open_tokenizer
from ..fuse import OTHER_BYTES, copy_others, write_fused
from ..merge import Weight, sampled_change
from ..merged_weights import read_weights
from ..reference import Questions, adapter_logits, questions_of
from ..resources import Step, check_memory, fuse_steps, upstream_steps
from ..source import Source
from ..verification import ExportCheck, ExportReport, at_least, check_space, new_file, publish_or_reject
from .converter import ConverterFailed, run_converter
from .encoding import TYPES, bytes_of
from .llamacpp_checks import run_checks
from .quantize import BETWEEN, error_checks, file_share, quantized
from .reader import Opened, open_gguf
from .tokenizer import Vocabulary, tokens_of


def export_upstream(
    source: Source,
    out: Path,
    kind: str,
    command: Sequence[str],
    progress: Callable[[float], None],
    announce: Callable[[list[Step]], None],
) -> ExportReport:
    """Fuse the model of a run, convert it to GGUF with upstream's converter, and verify the file in llama.cpp.

    Args:
        kind: see ``export_gguf``.
        command: see ``find_converter``.

    Raises:
        UserError: see ``fuse`` and ``export_gguf``.
    """
    weights = read_weights(source)
    tokenizer = open_tokenizer(source.model)
    shapes = [weight.shape for weight in weights.values()]
    questions = questions_of(source, tokenizer, sum(map(prod, shapes)))
    full_bytes = sum(bytes_of(kind if kind in TYPES else BETWEEN, shape) for shape in shapes) + OTHER_BYTES
    quantized_bytes = None if kind in TYPES else int(full_bytes * file_share(kind))
    stored = sum(weight.nbytes for weight in weights.values()) + OTHER_BYTES
    steps = fuse_steps(list(weights.values()), stored, questions)
    steps += upstream_steps(list(weights.values()), stored, full_bytes, quantized_bytes)
    announce(steps)
    check_space(out, max(step.disk for step in steps))
    check_memory(source.name, steps)
    changed = sampled_change(weights.values())
    with new_file(out) as temporary:
        # Both names start like the file's, so that they are removed as well if the block fails.
        model = temporary.with_name(f"{temporary.name}.model")
        full = temporary if kind in TYPES else temporary.with_name(f"{temporary.name}.{BETWEEN}")
        checks: list[ExportCheck] = []
        notes: list[str] = []
        try:
            found, said = _directory(source, weights, model, questions, tokenizer, progress)
            checks, notes = [replace(check, name=f"fused: {check.name}") for check in found], [*said]
            if not all(check.passed for check in checks):
                return publish_or_reject(model, out, checks, notes)
            run_converter(command, model, full, kind if kind in TYPES else BETWEEN)
            shutil.rmtree(model)
            progress(0.7)
            errors = None
            if kind not in TYPES:
                errors, found, said = quantized(full, temporary, kind)
                checks, notes = [*checks, *found], [*notes, *said]
            opened = open_gguf(temporary)
            template = getattr(tokenizer, "chat_template", None)
            vocabulary = tokens_of(tokenizer, len(opened.tokens), questions.end_of_turn)
            checks += _contents(opened, vocabulary, template if isinstance(template, str) else None)
            adapter = partial(adapter_logits, source)
            found, said = run_checks(
                temporary, kind, questions, vocabulary, tokenizer, opened.template, adapter, others=True
            )
            checks, notes = [*checks, *found], [*notes, *said]
            if errors is not None:
                found, said = error_checks(errors, kind, changed)
                checks, notes = [*checks, *found], [*notes, *said]
        except (ConverterFailed, LlamaCppFailed, ValueError) as error:
            step = "upstream's converter takes it" if isinstance(error, ConverterFailed) else "llama.cpp takes it"
            checks.append(ExportCheck(step, str(error), "yes", False))
            if not temporary.exists():
                # The checks of the fused model are still reported, with the converter's error.
                (full if full.exists() else model).rename(temporary)
        finally:
            shutil.rmtree(model, ignore_errors=True)
            if full != temporary:
                full.unlink(missing_ok=True)
        progress(1.0)
        notes += serving_notes(tokenizer, source.run.get("system_prompt"))
        return publish_or_reject(temporary, out, checks, notes, steps)


def _directory(
    source: Source,
    weights: dict[str, Weight],
    model: Path,
    questions: Questions,
    tokenizer: Any,
    progress: Callable[[float], None],
) -> tuple[list[ExportCheck], list[str]]:
    """Create the directory to convert: fused and verified, or the base with links to its weights."""
    if source.adapter is not None:
        return write_fused(source, weights, model, questions, tokenizer, lambda share: progress(0.5 * share))
    model.mkdir()
    copy_others(source, model, tokenizer.base_facts)
    for file in {weight.stored.file for weight in weights.values()}:
        os.symlink(file.absolute(), model / file.name)
    return [], []


def _contents(opened: Opened, vocabulary: Vocabulary, template: str | None) -> list[ExportCheck]:
    return [
        at_least("vocabulary", len(opened.tokens), 1 + max(vocabulary.tokens, default=0)),
        ExportCheck(
            "chat template",
            "the tokenizer's" if opened.template == template else "another",
            "the tokenizer's",
            opened.template == template,
        ),
    ]
