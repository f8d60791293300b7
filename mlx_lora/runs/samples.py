"""Sample answers of a run (``samples.json``): prompts with the reference, and the answers before and after training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import FORMAT, check_format, write_json
from ..user_files import read_text

KEYS = ("prompt", "reference", "before", "after")
# A sample: the text of each of the keys, ``None`` for an answer that was not asked for.
Sample = dict[str, str | None]


def write_samples(file: Path, samples: Sequence[Sample]) -> None:
    """Replace the file.

    Raises:
        UserError: the file system refuses.
    """
    # An answer may hold half of a surrogate pair.
    texts = [{k: v and v.encode("utf-8", "replace").decode() for k, v in sample.items()} for sample in samples]
    write_json(file, {"format": FORMAT, "samples": texts})


def read_samples(file: Path) -> list[Sample]:
    """Return the samples; none where the file is missing or cannot be read."""
    try:
        content = json.loads(read_text(file))
        check_format(content, file)
        rows = [{key: row.get(key) for key in KEYS} for row in content["samples"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        return []
    return [row for row in rows if all(value is None or isinstance(value, str) for value in row.values())]
