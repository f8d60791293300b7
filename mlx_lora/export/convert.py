"""A model with its adapter as a GGUF file, tensor by tensor: F32, F16, BF16 or Q8_0, in numpy and the gguf package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .architectures import Architecture, find_architecture, gguf_name, heads_of, permute_rows
from .rope import add_rope, head_size, rope_divisors
from .source import Source
from .tensors import from_float32, to_float32
from .vocabulary import Vocabulary
from .weights import Changed, Weight, read_weights

TYPES = ("f32", "f16", "bf16", "q8_0")
Q8_BLOCK = 32
# Room for the header, on top of the weights: the vocabulary is most of it.
HEADER_BYTES = 32 << 20


@dataclass
class Plan:
    """A model as its GGUF will have it.

    Attributes:
        kind: the type of its matrices, of ``TYPES``.
        tensors: (GGUF's name, type, the weight; ``None`` for llama3's divisors) in the order of the file.
        rows: rows of the embedding, and so tokens of the vocabulary.
        changed: filled while writing: what the adapter did to the weights.
    """

    source: Source
    architecture: Architecture
    kind: str
    tensors: list[tuple[str, str, Weight | None]]
    rows: int
    changed: Changed

    @property
    def weight_bytes(self) -> int:
        return sum(_bytes(kind, self.shape(weight)) for _, kind, weight in self.tensors)

    def shape(self, weight: Weight | None) -> tuple[int, ...]:
        return (head_size(self.source.config) // 2,) if weight is None else weight.shape


def plan(source: Source, kind: str) -> Plan:
    """Everything about the file but its contents.

    Raises:
        UserError: an architecture that is not known here, or weights that do not fit it.
    """
    config = source.config
    where = source.model.name
    architecture = find_architecture(config, where)
    weights = read_weights(source)
    embedding, tied = "model.embed_tokens.weight", config.get("tie_word_embeddings")
    if tied:
        weights.pop("lm_head.weight", None)
    if embedding not in weights or (tied is False and "lm_head.weight" not in weights):
        missing = embedding if embedding not in weights else "lm_head.weight"
        raise UserError(f"{where}: the weights lack {missing}; download the model again")
    layers = int(config["num_hidden_layers"])
    tensors: list[tuple[str, str, Weight | None]] = []
    if rope_divisors(config) is not None:
        tensors.append(("rope_freqs.weight", "f32", None))
    for name, weight in weights.items():
        if not name.endswith("rotary_emb.inv_freq"):
            tensors.append((gguf_name(architecture, layers, name), _type_of(weight, kind), weight))
    return Plan(source, architecture, kind, tensors, weights[embedding].shape[0], Changed())


def _type_of(weight: Weight, kind: str) -> str:
    """What has one dimension stays F32 (llama.cpp aborts on F16 norms), and rows that 32 does not divide stay F16."""
    if len(weight.shape) == 1:
        return "f32"
    return "f16" if kind == "q8_0" and weight.shape[-1] % Q8_BLOCK else kind


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5}[kind] // 8  # type: ignore[return-value]


def write_gguf(
    plan: Plan,
    vocabulary: Vocabulary,
    file: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the file; ``advance`` is told how many bytes of the weights are done.

    No more than one tensor is in memory at a time, in the type it is written in.

    Raises:
        UserError: a number does not fit its type.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(file, plan.architecture.name)
    try:
        _add_model(writer, plan)
        _add_vocabulary(writer, vocabulary)
        for name, kind, weight in plan.tensors:
            shape, size = plan.shape(weight), _bytes(kind, plan.shape(weight))
            number = GGMLQuantizationType[kind.upper()]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), int(size), raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done = 0
        for values in _tensors(plan):
            writer.write_tensor_data(values)
            done += values.nbytes
            advance(done)
    finally:
        writer.close()


def _tensors(plan: Plan) -> Iterator[np.ndarray]:
    for _, kind, weight in plan.tensors:
        if weight is None:
            divisors = rope_divisors(plan.source.config)
            assert divisors is not None
            yield divisors
        else:
            values = encoded(weight, kind, plan.changed)
            heads = heads_of(plan.architecture, plan.source.config, weight.name)
            yield values if heads is None else permute_rows(values, heads)


def encoded(weight: Weight, kind: str, changed: Changed | None = None) -> np.ndarray:
    """A whole tensor in one of ``TYPES``: bfloat16 as its bits in uint16, Q8_0 as bytes [rows, ...].

    Raises:
        UserError: a number is not finite there.
    """
    columns = weight.shape[-1:] if kind != "q8_0" else (weight.shape[-1] // Q8_BLOCK * 34,)
    number = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "q8_0": np.uint8}[kind]
    result = np.empty((*weight.shape[:-1], *columns), dtype=number)
    for first, last in weight.pieces():
        result[first:last] = _piece(weight, kind, first, last, changed)
    return result


def _piece(weight: Weight, kind: str, first: int, last: int, changed: Changed | None) -> np.ndarray:
    if weight.as_stored and weight.stored.dtype == kind.upper():
        raw = weight.stored.rows(first, last)
        _check_finite(weight, kind, raw)
        return raw
    if weight.as_stored and weight.stored.dtype == "BF16" and kind == "f16":
        # A table of all 65,536 bfloat16 numbers is faster than any arithmetic on them.
        values = np.take(_float16_of_bfloat16(), weight.stored.rows(first, last), mode="clip")
    else:
        exact = weight.float32(first, last, changed)
        if kind == "q8_0":
            from gguf import GGMLQuantizationType, quantize

            # Each block has its largest number divided by 127 as a float16.
            _check_finite(weight, "f16", from_float32(np.abs(exact).max(keepdims=True) / np.float32(127), "F16"))
            return quantize(exact, GGMLQuantizationType.Q8_0)
        values = from_float32(exact, kind.upper())
    _check_finite(weight, kind, values)
    return values


@cache
def _float16_of_bfloat16() -> np.ndarray:
    return from_float32(to_float32(np.arange(1 << 16, dtype=np.uint16), "BF16"), "F16")


def _check_finite(weight: Weight, kind: str, values: np.ndarray) -> None:
    # In the bits of each type, an exponent of all ones (infinite, or no number) makes the largest whole numbers.
    number, infinite = {"f16": ("u2", 0x7C00), "bf16": ("u2", 0x7F80), "f32": ("u4", 0x7F800000)}[kind]
    bits = np.atleast_1d(values).view(number)
    if int((bits & (2 ** (8 * bits.itemsize - 1) - 1)).max(initial=0)) >= infinite:
        raise UserError(
            f"{weight.name}: some of its numbers are too large for {kind}, or not finite at all; "
            "try --type bf16, or look at how the adapter was trained"
        )


def _add_model(writer: Any, plan: Plan) -> None:
    """The sizes of the model."""
    import gguf

    source, config = plan.source, plan.source.config
    where = source.model.path / "config.json"
    try:
        heads = int(config["num_attention_heads"])
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(Path(source.name).name)
        writer.add_block_count(int(config["num_hidden_layers"]))
        writer.add_context_length(int(config.get("max_position_embeddings") or 2048))
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(heads)
        writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        writer.add_vocab_size(plan.rows)
        size = head_size(config)
        writer.add_rope_dimension_count(size)
        writer.add_key_length(size)
        writer.add_value_length(size)
        add_rope(writer, config, str(where))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: the model's sizes are missing or odd ({error!r}); download the model again"
        ) from error
    files = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[files[plan.kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    tokens, types = vocabulary.padded()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)
