"""Train/valid/test split by the hash of each example's key, so that no example ever changes splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from .dataset import SPLITS, Example


def split_by_key(
    examples: Iterable[Example], key: Callable[[Example], str], shares: tuple[float, float] = (0.1, 0.1)
) -> dict[str, list[Example]]:
    """Split examples into train, valid and test by key; adding examples moves no other one.

    Args:
        key: the value that must not be in two splits: the prompt, usually, or the document.
        shares: of valid and test.
    """
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    valid, test = shares
    for example in examples:
        digest = hashlib.sha256(key(example).encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        splits["valid" if place < valid else "test" if place < valid + test else "train"].append(example)
    return splits
