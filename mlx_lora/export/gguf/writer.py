"""GGUF writer: a model with its adapter, tensor by tensor, as F32, F16, BF16 or Q8_0 (numpy and the gguf package)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, first_line
from ...models.tokenizer import open_tokenizer
from ..merge import Changed, Weight, sampled_change
from ..merged_weights import check_readable, read_weights
from ..source import Source
from .architectures import Architecture, find_architecture, gguf_name, heads_of
from .encoding import Q8_BLOCK, PiecewiseTensor, bytes_of, encoded_pieces, made_in_order
from .rope import add_rope, head_size, rope_divisors
from .tokenizer import Vocabulary, known_splitting

# Space for the header, in addition to the weights: most of it is the vocabulary.
HEADER_BYTES = 32 << 20


@dataclass
class GGUFPlan:
    """Layout of a GGUF file before it is written.

    Attributes:
        kind: type of the matrices, one of ``TYPES``.
        tensors: (GGUF's name, type, the weight; ``None`` for llama3's divisors) in file order.
        rows: rows of the embedding, which is the vocabulary size.
        changed: the adapter's change of some rows of each adapted weight.
    """

    source: Source
    architecture: Architecture
    kind: str
    tensors: list[tuple[str, str, Weight | None]]
    rows: int
    changed: Changed

    @property
    def sizes(self) -> list[int]:
        """Size of each tensor in bytes."""
        return [bytes_of(kind, self.shape(weight)) for _, kind, weight in self.tensors]

    @property
    def weight_bytes(self) -> int:
        """Total size of the tensors in bytes."""
        return sum(self.sizes)

    @property
    def parameters(self) -> int:
        """Number of parameters of all tensors."""
        return sum(prod(self.shape(weight)) for _, _, weight in self.tensors)

    def shape(self, weight: Weight | None) -> tuple[int, ...]:
        """Return the shape of a weight, or of llama3's divisors for ``None``."""
        return (head_size(self.source.config) // 2,) if weight is None else weight.shape


def plan(source: Source, kind: str) -> GGUFPlan:
    """Plan a GGUF file: everything except the tensors' contents.

    Raises:
        UserError: an architecture that is not supported here, or weights that do not fit it.
    """
    config = source.config
    where = source.model.name
    architecture = find_architecture(config, where)
    weights = read_weights(source)
    for name, weight in weights.items():
        check_readable(source, name, weight)
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
    return GGUFPlan(source, architecture, kind, tensors, weights[embedding].shape[0], sampled_change(weights.values()))


def refused_here(source: Source) -> str | None:
    """Return the reason why a base's config or tokenizer cannot be written as GGUF here; ``None`` if it can."""
    where = source.model.name
    try:
        find_architecture(source.config, where)
        tokenizer = open_tokenizer(source.model)
        known_splitting(json.loads(tokenizer.backend_tokenizer.to_str()), where)
    except UserError as error:
        return str(error)
    return None


def _type_of(weight: Weight, kind: str) -> str:
    """Return a tensor's type: F32 for 1-D ones (llama.cpp aborts on F16 norms), F16 for rows not divisible by 32."""
    if len(weight.shape) == 1:
        return "f32"
    return "f16" if kind == "q8_0" and weight.shape[-1] % Q8_BLOCK else kind


def write_gguf(
    plan: GGUFPlan,
    vocabulary: Vocabulary,
    file: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the GGUF file; ``advance`` is called with the number of bytes of weights that are done.

    Some pieces of tensors are in memory at a time, or one whole tensor if its rows are permuted.

    Raises:
        UserError: a number does not fit its type.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(file, plan.architecture.name)
    try:
        _add_model(writer, plan)
        _add_vocabulary(writer, vocabulary)
        for (name, kind, weight), size in zip(plan.tensors, plan.sizes, strict=True):
            number = GGMLQuantizationType[kind.upper()]
            writer.add_tensor_info(name, plan.shape(weight), np.dtype(np.float32), size, raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        jobs = list(_jobs(plan))
        # MLX dequantizes, with its own threads.
        threads = not any(weight is not None and weight.quantized for _, _, weight in plan.tensors)
        pieces = made_in_order(chain.from_iterable(jobs), threads)
        done = 0
        for made, size in zip(jobs, plan.sizes, strict=True):
            writer.write_tensor_data(PiecewiseTensor(size, islice(pieces, len(made))))
            done += size
            advance(done)
    finally:
        writer.close()


def _jobs(plan: GGUFPlan) -> Iterator[list[Callable[[], np.ndarray]]]:
    """Yield the jobs that compute the pieces of each tensor, in file order."""
    for _, kind, weight in plan.tensors:
        if weight is None:
            yield [lambda: _divisors(plan.source.config)]
        else:
            yield encoded_pieces(weight, kind, heads_of(plan.architecture, plan.source.config, weight.name))


def _divisors(config: dict[str, Any]) -> np.ndarray:
    divisors = rope_divisors(config)
    assert divisors is not None
    return divisors


def _add_model(writer: Any, plan: GGUFPlan) -> None:
    """Write the model's hyperparameters into the metadata."""
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
            f"{where}: the model's sizes are missing or odd ({first_line(error)}); download the model again"
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
