"""Common prefix of prompts, which both backends compute once for a batch of answers."""

from __future__ import annotations

from collections.abc import Sequence

# A shorter prefix is not worth its copies.
LEAST_PREFIX = 8


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common prefix of prompts."""
    first, last = min(prompts), max(prompts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]
