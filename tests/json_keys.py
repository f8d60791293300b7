"""Paths of the keys of a command's ``--json``."""

from __future__ import annotations

from typing import Any


def key_paths(value: Any, path: str = "") -> set[str]:
    """Return the paths of all keys: ``counts.total``, and ``findings[].name`` for those in a list."""
    if isinstance(value, list):
        return set().union(*(key_paths(item, f"{path}[]") for item in value))
    if not isinstance(value, dict):
        return set()
    inner = {f"{path}.{key}".lstrip("."): content for key, content in value.items()}
    return set(inner).union(*(key_paths(content, place) for place, content in inner.items()))
