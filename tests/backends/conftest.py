"""Both backends side by side; without torch these tests are skipped here, and `.ci/run` has an environment with it."""

from __future__ import annotations

import os

import pytest

# Small models: threads would only wait for each other, in the processes started here too.
os.environ["OMP_NUM_THREADS"] = "1"
pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("peft", reason="needs the extra torch")
