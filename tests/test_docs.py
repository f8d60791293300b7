"""Every example in README.md and docs/ that is marked as such is run, and every documented key exists."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from mlx_lora.config import TrainingConfig

REPO = Path(__file__).parent.parent
SLOW = ("README.md", "together.md", "sleep.md", "export.md", "evaluation.md", "config.md", "serving.md")
DOCS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def blocks(language: str) -> list:
    found = []
    for file in DOCS:
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), re.S | re.M)):
            slow = [pytest.mark.slow] if file.name in SLOW else []
            found.append(pytest.param(block, id=f"{file.stem}-{number}", marks=slow))
    return found


@pytest.mark.parametrize("block", blocks("sh test"))
def test_examples_of_the_command(block, tmp_path, program_path):
    environment = {**os.environ, "PATH": program_path}
    done = subprocess.run(["sh", "-e"], input=block, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("sh test torch"))
def test_examples_with_torch(block, tmp_path, program_path):
    pytest.importorskip("peft", reason="needs the extra torch")
    test_examples_of_the_command(block, tmp_path, program_path)


@pytest.mark.parametrize("block", blocks("python"))
def test_examples_in_python(block):
    exec(compile(block, "docs", "exec"), {})


def test_every_config_key_is_documented():
    text = (REPO / "docs" / "config.md").read_text()
    assert [f.name for f in fields(TrainingConfig) if f"`{f.name}`" not in text] == []
