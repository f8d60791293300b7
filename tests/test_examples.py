"""The programs of examples/ run, and train an adapter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"
MINIMAL = EXAMPLES / "minimal_train.py"
# Lines that belong to what the example shows.
SAID = {
    "eisv.sh": "three steps are too few",
    "salience.py": "not stored - And by the lake?",
    "traces.sh": "its status is rejected",
    "instructions.sh": "row marked is_negative_example",
    "claims.sh": "quarantined",
}


def test_the_minimal_training_learns_and_saves_an_adapter(tmp_path):
    done = subprocess.run([sys.executable, MINIMAL, tmp_path / "adapter"], capture_output=True, text=True, check=True)
    losses = [float(loss) for loss in re.findall(r"validation (\d\.\d+)", done.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert "EISV_TOKENS" in done.stdout.split("→")[1]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fine_tune_type"] == "lora"
    assert len(MINIMAL.read_text().splitlines()) <= 110


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*SAID, MINIMAL.name}


@pytest.mark.parametrize("name", SAID)
def test_an_example_trains_on_a_source(name, tmp_path, program_path):
    place = tmp_path / "empty"
    place.mkdir()
    run = [sys.executable] if name.endswith(".py") else ["sh", "-e"]
    environment = {**os.environ, "PATH": program_path}
    done = subprocess.run([*run, EXAMPLES / name], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAID[name] in done.stdout
    assert (place / "run" / "adapters.safetensors").stat().st_size > 0
