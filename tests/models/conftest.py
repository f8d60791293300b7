from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlx_lora.models.resolve import BUILT_IN

TINY = BUILT_IN["builtin/tiny-lumen"]


@pytest.fixture
def make_base(tmp_path):
    """Return a function that copies the built-in base, with keys of its JSON files changed (None removes one)."""

    def make(name: str = "base", **changes: dict) -> Path:
        out = tmp_path / name
        shutil.copytree(TINY, out)
        for stem, keys in changes.items():
            file = out / f"{stem}.json"
            content = json.loads(file.read_text()) if file.exists() else {}
            merged = content | keys
            file.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
        return out

    return make
