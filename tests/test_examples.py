"""The programs of examples/ run, and learn what `mlx-lora train` learns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "minimal_train.py"


def test_the_minimal_training_learns_and_saves_an_adapter(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLE, tmp_path / "adapter"], capture_output=True, text=True, check=True)
    losses = [float(loss) for loss in re.findall(r"validation (\d\.\d+)", done.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert "EISV_TOKENS" in done.stdout.split("→")[1]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fine_tune_type"] == "lora"
    assert len(EXAMPLE.read_text().splitlines()) <= 110
