"""Fused model export: the adapter merged into its base, as a directory that mlx-lm and transformers load."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.mlx.layer_streaming import load_lazily, streamed_logits
from ..data.chat_template import serving_notes
from ..errors import UserError
from ..files import write_atomic, write_json
from ..models.inspection import BaseFacts, read_object
from ..models.resolve import HUB_PATTERNS, resolve_model
from ..models.tokenizer import open_tokenizer
from ..user_files import read_text
from .hub_names import is_floating
from .logit_metrics import compare_logits, limits_of
from .merge import Changed, Weight
from .merged_weights import read_weights
from .reference import TEXTS, Questions, adapter_logits, questions_of
from .resources import Step, check_memory, fuse_steps
from .source import Source, read_source
from .tensors import DTYPES, format_of, from_float32, make_header, stored_tensors, to_float32
from .verification import (
    ExportCheck,
    ExportReport,
    at_least,
    at_most,
    check_space,
    equal,
    new_file,
    publish_or_reject,
    refuse_existing,
)

WEIGHTS_FILE, GENERATION = "model.safetensors", "generation_config.json"
# Directory in which transformers keeps named chat templates.
FOLDERS = ("additional_chat_templates",)
# Room for the files beside the weights.
OTHER_BYTES = 64 << 20
# Rounding error as a share of the adapter's change above which the user is told.
MUCH_LOST = 0.1


def fuse(
    name: str,
    out: str | Path,
    progress: Callable[[float], None] = lambda share: None,
    announce: Callable[[list[Step]], None] = lambda steps: None,
) -> ExportReport:
    """Fuse base and adapter into one model directory, in the base's dtype, and check it against the adapter in MLX.

    A quantized base is written dequantized. Only some rows of one tensor are in memory at a time while it is written.

    Args:
        name: a run directory.
        progress: called with the share of the work that is done, from 0 to 1.
        announce: called, before the work, with the memory and disk that each step takes.

    Raises:
        UserError: bad input (nothing is written then), a full disk, or ``out`` exists already.
    """
    out = Path(out)
    refuse_existing(out)
    source = read_source(name, needs_adapter=True)
    weights = read_weights(source)
    total = sum(weight.nbytes for weight in weights.values())
    load_lazily(source.model, source.adapter)
    tokenizer = open_tokenizer(source.model)
    questions = questions_of(source, tokenizer, sum(prod(weight.shape) for weight in weights.values()))
    steps = fuse_steps(list(weights.values()), total + OTHER_BYTES, questions)
    announce(steps)
    check_space(out, total + OTHER_BYTES)
    check_memory(name, steps)
    serving = serving_notes(tokenizer, source.run.get("system_prompt"))
    with new_file(out) as directory:
        checks, notes = write_fused(source, weights, directory, questions, tokenizer, progress)
        return publish_or_reject(directory, out, checks, [*notes, *serving], steps)


def write_fused(
    source: Source,
    weights: dict[str, Weight],
    directory: Path,
    questions: Questions,
    tokenizer: Any,
    progress: Callable[[float], None],
) -> tuple[list[ExportCheck], list[str]]:
    """Write the fused directory; return the checks and the notes for the user."""
    directory.mkdir()
    total = sum(weight.nbytes for weight in weights.values())
    copy_others(source, directory, tokenizer.base_facts)
    changed = _write_weights(source, weights, directory, lambda done: progress(0.8 * done / total))
    checks = [*_contents(weights, directory, total), *_answers(source, directory, weights, questions, tokenizer)]
    progress(1.0)
    return checks, _notes(weights, changed)


def copy_others(source: Source, directory: Path, base: BaseFacts) -> None:
    """Copy all files of the base except its weights; remove the quantization from the config if it was undone.

    The end-of-turn tokens are written where mlx-lm and transformers look for them, and the run's own chat template
    replaces the base's.
    """
    for pattern in HUB_PATTERNS:
        for file in source.model.path.glob(pattern):
            if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
                shutil.copyfile(file, directory / file.name)
    for folder in FOLDERS:
        if (source.model.path / folder).is_dir():
            shutil.copytree(source.model.path / folder, directory / folder)
    config = json.loads(read_text(source.model.path / "config.json"))
    if "quantization" in config:
        config.pop("quantization_config", None)
        del config["quantization"]
    ends = {"eos_token_id": base.ends[0] if len(base.ends) == 1 else base.ends} if base.ends else {}
    write_json(directory / "config.json", config | ends)
    write_json(directory / GENERATION, read_object(directory / GENERATION) | ends)
    if base.given_template is not None:
        _write_template(directory, base.given_template)


def _write_template(directory: Path, template: str) -> None:
    """Replace all chat templates in the files with one."""
    for folder in FOLDERS:
        shutil.rmtree(directory / folder, ignore_errors=True)
    (directory / "chat_template.json").unlink(missing_ok=True)
    settings = read_object(directory / "tokenizer_config.json")
    settings.pop("chat_template", None)
    write_json(directory / "tokenizer_config.json", settings)
    write_atomic(directory / "chat_template.jinja", template)


def _write_weights(
    source: Source, weights: dict[str, Weight], directory: Path, advance: Callable[[int], None]
) -> Changed:
    changed, done = Changed(), 0
    shapes = {name: (weight.dtype, weight.shape) for name, weight in weights.items()}
    with open(directory / WEIGHTS_FILE, "wb") as file:
        file.write(make_header(shapes, format_of(source.model.path)))
        for weight in weights.values():
            for first, last in weight.pieces():
                piece = _piece(weight, first, last, changed)
                piece.tofile(file)
                done += piece.nbytes
            weight.release()
            advance(done)
    return changed


def _piece(weight: Weight, first: int, last: int, changed: Changed) -> np.ndarray:
    """Return some rows of a weight in the base's dtype."""
    if weight.as_stored and weight.stored.dtype == weight.dtype:
        return weight.stored.rows(first, last)
    values = from_float32(weight.float32(first, last, changed), weight.dtype)
    if not np.isfinite(to_float32(values, weight.dtype)).all():
        raise UserError(
            f"{weight.name}: with the adapter some of its numbers are too large for the base's {weight.dtype}, "
            "or not finite at all; look at how the adapter was trained"
        )
    return values


def _contents(weights: dict[str, Weight], directory: Path, total: int) -> list[ExportCheck]:
    """Read the written file again and check its tensors."""
    stored = stored_tensors(directory)
    right = sum(
        name in stored and (stored[name].shape, stored[name].dtype) == (weight.shape, weight.dtype)
        for name, weight in weights.items()
    )
    size = sum(tensor.size * np.dtype(DTYPES[tensor.dtype]).itemsize for tensor in stored.values())
    return [
        equal("tensors", len(stored), len(weights)),
        equal("tensors of the right name, shape and type", right, len(weights)),
        equal("bytes of weights", size, total),
    ]


def _answers(
    source: Source, directory: Path, weights: dict[str, Weight], questions: Questions, tokenizer: Any
) -> list[ExportCheck]:
    """Load the fused model and compare its logits with those of the adapter on its base."""
    inputs = questions.prompts, questions.positions
    try:
        fused = resolve_model(str(directory))
        answers = streamed_logits(lambda: load_lazily(fused), *inputs)
        other = open_tokenizer(fused)
    except UserError as error:
        return [ExportCheck("loads in mlx-lm", str(error), "yes", False)]
    probes = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    same = sum(other.encode(text, add_special_tokens=False) == ids for text, ids in zip(TEXTS, probes, strict=True))
    found = compare_logits(adapter_logits(source, *inputs), answers)
    limits = limits_of(main_dtype(weights).lower())
    return [
        ExportCheck("loads in mlx-lm", "yes", "yes", True),
        equal("probe texts with the base's ids", same, len(probes)),
        equal("tokens that end an answer", _listed(other.base_facts.ends), _listed(tokenizer.base_facts.ends)),
        at_most("difference of logits (RMS, in their spread)", found.relative, limits.relative),
        at_most("KL divergence (nats)", found.divergence, limits.divergence),
        at_least("same likeliest token", found.top1, limits.top1),
    ]


def _listed(tokens: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(tokens)))


def main_dtype(weights: dict[str, Weight]) -> str:
    """Return the dtype of most parameters: F32, F16 or BF16."""
    sizes: Counter[str] = Counter()
    for weight in (weight for weight in weights.values() if is_floating(weight.stored) or weight.quantized):
        sizes[weight.dtype] += prod(weight.shape)
    return sizes.most_common(1)[0][0]


def _notes(weights: dict[str, Weight], changed: Changed) -> list[str]:
    notes = []
    quantized = next((weight for weight in weights.values() if weight.quantized is not None), None)
    if quantized is not None and quantized.quantized is not None:
        notes.append(
            f"the base is quantized to {quantized.quantized['bits']} bits and the fused model is not: quantized again "
            f"it would be changed by {changed.requantized_relative:.2%}, and the adapter changed it by "
            f"{changed.relative:.2%}"
        )
    if changed.rounding > MUCH_LOST:
        notes.append(
            f"the adapter changed the weights it is on by {changed.relative:.3%}, so little that rounding to "
            f"{main_dtype(weights)} changes {changed.rounding:.0%} of that"
        )
    return notes
