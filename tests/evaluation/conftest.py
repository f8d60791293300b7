"""Suites of the tests' own: a YAML file and its cases."""

from __future__ import annotations

import json

import pytest
import yaml

from mlx_lora.evaluation.suite import load_suite


@pytest.fixture
def write_suite(tmp_path):
    """Write a suite and its cases; returns the YAML file. Keywords are keys of the suite, None leaves one out."""

    def write(*cases, name="mine", **keys):
        file = tmp_path / f"{name}.yaml"
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
        content = {
            "name": name,
            "threshold": 0.5,
            "cases": {"file": f"{name}.jsonl"},
            "generate": {"max_tokens": 12},
            "checks": [{"contains": {}}],
            **keys,
        }
        file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return file

    return write


@pytest.fixture
def suite_of(write_suite):
    """Write a suite and load it."""
    return lambda *cases, **keys: load_suite(str(write_suite(*cases, **keys)))
