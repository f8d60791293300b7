"""Train/valid/test split by the hash of each example's key, so that no example ever changes splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from .dataset import SPLITS, Example
from .import_report import ImportReport


def place_of(key: str) -> float:
    """Return the place from 0 to 1 that a key's hash gives it, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


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
        place = place_of(key(example))
        splits["valid" if place < valid else "test" if place < valid + test else "train"].append(example)
    return splits


def unless_held_out(
    splits: dict[str, list[Example]], examples: Sequence[Example], report: ImportReport, note: str, least: float = 0
) -> dict[str, list[Example]]:
    """Return the splits, or all examples in train with a note, where train is empty or below a share of ``least``."""
    if len(splits["train"]) >= max(least * len(examples), 1):
        return splits
    report.notes.append(note)
    return {split: list(examples) if split == "train" else [] for split in SPLITS}
