"""GGUF export: convert a run's model, quantize it if requested, verify it in llama.cpp, then give it its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...backends.mlx.layer_streaming import load_lazily
from ...data.chat_template import serving_notes
from ...engines.llamacpp.run import LlamaCppFailed, check_available
from ...errors import UserError, guarded
from ...models.tokenizer import open_tokenizer
from ..merge import Weight
from ..reference import Questions, adapter_logits, questions_of
from ..resources import CONVERTING, LLAMA_CPP, PROCESS, TOKEN, Step, check_memory, numbers_of, streaming_bytes
from ..source import Source, read_source
from ..verification import ExportCheck, ExportReport, check_space, new_file, publish_or_reject, refuse_existing
from .architectures import heads_of
from .converter import HOW_TO_GET, find_converter
from .encoding import TYPES
from .llamacpp_checks import run_checks
from .own_logits import own_logits
from .quantize import BETWEEN, check_type, error_checks, file_share, quantized
from .reader import content_checks, open_gguf, type_checks
from .tokenizer import check_size, read_vocabulary
from .upstream import export_upstream
from .writer import HEADER_BYTES, GGUFPlan, plan, refused_here, write_gguf


def export_gguf(
    name: str,
    out: str | Path,
    kind: str = "f16",
    progress: Callable[[float], None] = lambda share: None,
    announce: Callable[[list[Step]], None] = lambda steps: None,
    converter: str | None = None,
) -> ExportReport:
    """Write the model of a run (or a base model) as GGUF, and verify it in llama.cpp against the adapter in MLX.

    Args:
        name: a run directory, or a base model by name or directory.
        kind: f32, f16, bf16, q8_0, or a type that llama.cpp quantizes to, such as q4_k_m.
        progress: called with the share of the work that is done, from 0 to 1.
        announce: called, before the work, with the memory and disk that each step takes.
        converter: upstream's converter, see ``find_converter``; one on PATH is used for models not supported here.

    Raises:
        UserError: bad input, or no llama.cpp (nothing is written then), too little memory or disk, or ``out`` exists
            already.
    """
    out = Path(out)
    refuse_existing(out)
    check_available()
    check_type(kind)
    source = read_source(name)
    with guarded(f"{name}: its model's config.json and weights do not fit together", "; download the model again"):
        reason = refused_here(source)
    if converter is not None or reason is not None:
        command = find_converter(converter)
        if command is None:
            raise UserError(f"{reason}; other models are converted by llama.cpp's own program: {HOW_TO_GET}")
        return export_upstream(source, out, kind, command, progress, announce)
    with guarded(f"{name}: its model's config.json and weights do not fit together", "; download the model again"):
        planned = plan(source, kind if kind in TYPES else BETWEEN)
    # Only checks that adapter and base fit together; the weights are read from disk when they are used.
    load_lazily(source.model, source.adapter)
    tokenizer = open_tokenizer(source.model)
    check_size(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False), planned.rows, source.model.name)
    questions = questions_of(source, tokenizer, planned.parameters)
    file_bytes = int(planned.weight_bytes * file_share(kind)) + HEADER_BYTES
    steps = gguf_steps(planned, questions, None if kind in TYPES else file_bytes)
    announce(steps)
    check_space(out, max(step.disk for step in steps))
    check_memory(name, steps)
    vocabulary = read_vocabulary(
        tokenizer, planned.rows, source.model.name, questions.end_of_turn, source.config.get("bos_token_id")
    )
    with new_file(out) as temporary:
        # The other file's name ends like this one's, so that it is removed as well if the block fails.
        full = temporary if kind in TYPES else temporary.with_name(f"{temporary.name}.{BETWEEN}")
        checks: list[ExportCheck] = []
        notes = [*_notes(source, planned), *serving_notes(tokenizer, source.run.get("system_prompt"))]
        try:
            write_gguf(planned, vocabulary, full, lambda done: progress(0.6 * done / planned.weight_bytes))
            own = errors = None
            if kind in TYPES:
                opened = open_gguf(full)
                checks += [*content_checks(opened, planned, vocabulary), *type_checks(opened, planned)]
            else:
                errors, found, said = quantized(full, temporary, kind)
                opened = errors.quantized
                checks += [*content_checks(opened, planned, vocabulary), *found]
                notes += said
                # Weights of other shapes cannot be run; the file is already rejected.
                own = partial(own_logits, planned, errors) if all(check.passed for check in checks) else None
            progress(0.8)
            adapter = partial(adapter_logits, source)
            found, said = run_checks(temporary, kind, questions, vocabulary, tokenizer, opened.template, adapter, own)
            checks, notes = [*checks, *found], [*notes, *said]
            if errors is not None:
                found, said = error_checks(errors, kind, planned.changed)
                checks, notes = [*checks, *found], [*notes, *said]
        except LlamaCppFailed as error:
            checks.append(ExportCheck("llama.cpp quantizes it", str(error), "yes", False))
            if not temporary.exists():
                full.rename(temporary)
        finally:
            if full != temporary:
                full.unlink(missing_ok=True)
        progress(1.0)
        return publish_or_reject(temporary, out, checks, notes, steps)


def _notes(source: Source, planned: GGUFPlan) -> list[str]:
    if any(weight is not None and _is_quantized(weight) for _, _, weight in planned.tensors):
        return [f"{source.model.name} is quantized itself: its weights were dequantized, with the error they have"]
    return []


def _is_quantized(weight: Weight) -> bool:
    return weight.quantized is not None


def gguf_steps(plan: GGUFPlan, questions: Questions, quantized: int | None) -> list[Step]:
    """Return the steps of a GGUF export.

    Args:
        quantized: size in bytes of the file that llama.cpp quantizes, ``None`` if there is none.
    """
    weights = [weight for _, _, weight in plan.tensors if weight is not None]
    process = PROCESS + TOKEN * plan.rows
    full = plan.weight_bytes + (32 << 20)
    permuted = [w for w in weights if heads_of(plan.architecture, plan.source.config, w.name) is not None]
    steps = [Step("convert", process + CONVERTING + 6 * max(map(numbers_of, permuted), default=0), full)]
    disk = full
    if quantized is not None:
        disk = full + quantized
        # llama.cpp holds a tensor in float32, and as much again for the result.
        steps.append(Step("quantize", process + LLAMA_CPP + 8 * max(map(numbers_of, weights)), disk))
    steps.append(Step("run in llama.cpp", process + LLAMA_CPP + _llama_cpp(plan, questions), disk))
    steps.append(Step("compare in MLX", process + streaming_bytes(weights, questions, plan.rows), disk))
    return steps


def _llama_cpp(plan: GGUFPlan, questions: Questions) -> int:
    """Return the bytes of llama.cpp's float32 KV cache, activations with logits of every token, and kept logits."""
    config = plan.source.config
    heads = int(config["num_attention_heads"])
    context = max(256, *map(len, questions.prompts), len(questions.greedy_prompt) + 24)
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    cache = 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * size
    return 4 * context * (cache + plan.rows)
