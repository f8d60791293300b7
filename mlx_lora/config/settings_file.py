"""Settings files in YAML or JSON, with a limit on the expanded size of aliases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ..user_files import MOST_SETTINGS, read_text

# Values of a document, each alias counted with its expansion.
MOST_VALUES = 100_000


def read_settings(file: Path) -> Any:
    """Return the value in a file; JSON is detected by its name, since YAML 1.1 takes 1e-4 for text.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is not a regular file of a sensible size.
        yaml.YAMLError, ValueError, RecursionError: it is neither YAML nor JSON, or expands without end.
    """
    text = read_text(file, MOST_SETTINGS, "utf-8-sig")
    return json.loads(text) if file.suffix == ".json" else parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not YAML, or its aliases expand without end.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Return the number of values that a node expands to; ``None`` in ``known`` marks the nodes around it."""
    if id(node) not in known:
        known[id(node)] = None
        inner: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [child for item in inner for child in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    size = known[id(node)]
    if size is None or size > MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"its aliases expand to more than {MOST_VALUES:,} values", problem_mark=node.start_mark
        )
    return size
