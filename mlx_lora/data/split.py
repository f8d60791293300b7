"""Which examples are held out: decided by each example's own key, so that none ever changes sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from .dataset import SPLITS, Example


def split_by_key(
    examples: Iterable[Example], key: Callable[[Example], str], shares: tuple[float, float] = (0.1, 0.1)
) -> dict[str, list[Example]]:
    """train, valid and test; examples of one key stay together, and go where they went before when others are added.

    Args:
        key: what must not be in two splits: the prompt, usually, or the document.
        shares: of valid and test.
    """
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    valid, test = shares
    for example in examples:
        digest = hashlib.sha256(key(example).encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        splits["valid" if place < valid else "test" if place < valid + test else "train"].append(example)
    return splits
