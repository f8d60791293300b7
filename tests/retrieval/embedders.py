"""A small embedder for tests that are not about the model: words hashed to random directions."""

from __future__ import annotations

import hashlib
import re

import numpy as np


class HashedWords:
    """Sums of one pseudo-random direction a word; texts that share words are near one another."""

    def __init__(self, dimension: int = 32, salt: str = "") -> None:
        self.name, self.dimension, self.salt = f"hashed-{dimension}{salt}", dimension, salt
        self.embedded = 0

    def embed(self, texts):
        self.embedded += len(texts)
        rows = [sum((self._direction(word) for word in self._words(text)), np.zeros(self.dimension)) for text in texts]
        matrix = np.array(rows, dtype=np.float32).reshape(len(texts), self.dimension)
        matrix[:, 0] += 1e-3
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def count_tokens(self, texts):
        return [len(self._words(text)) for text in texts]

    def _words(self, text):
        return re.findall(r"\w+|[^\w\s]", text.lower())

    def _direction(self, word):
        seed = int.from_bytes(hashlib.sha256(f"{self.salt}{word}".encode("utf-8", "replace")).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self.dimension)
