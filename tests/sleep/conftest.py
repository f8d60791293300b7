"""Small nights on the built-in base: rows, a store of two shapes, and the adapter's directory."""

from __future__ import annotations

import pytest
from small_nights import SHAPES, trajectories, write_store


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return trajectories(tmp_path_factory.mktemp("trajectories") / "all")


@pytest.fixture
def store(tmp_path, rows):
    return write_store(tmp_path / "store", rows[SHAPES[0]] + rows[SHAPES[1]])


@pytest.fixture
def name(tmp_path):
    return tmp_path / "adapters" / "lumen"
