"""Names that other people's scripts import: a name may move between files, never away from here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROMISED = json.loads(Path(__file__).with_name("promised_names.json").read_text())


@pytest.mark.parametrize("package", PROMISED)
def test_every_promised_name_is_importable(package):
    module = importlib.import_module(package)
    assert [name for name in PROMISED[package] if not hasattr(module, name)] == []
    assert set(PROMISED[package]) <= set(module.__all__)


def test_the_sources_load_no_framework():
    heavy = "[m for m in ('mlx', 'torch', 'transformers') if m in sys.modules]"
    code = f"import sys, {', '.join(PROMISED)}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
