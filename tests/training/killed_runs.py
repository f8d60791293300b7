"""Small runs that are killed at one of their writes and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EVERY = ("save_steps=2", "eval_steps=3", "log_steps=1", "max_steps=6", "batch_size=2", "run_name=a night's run")


def arguments(data: Path, out: Path, *settings: str) -> list[str]:
    chosen = [part for setting in (*EVERY, *settings) for part in ("--set", setting)]
    return ["train", "--config", "quickstart", "--data", str(data), "--out", str(out), *chosen]


def told(out: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def killed(where: str, directory: Path, given: list[str], environment: dict[str, str]) -> None:
    """Run the command until its first write at ``where``, where it gets SIGKILL."""
    killer = [sys.executable, str(Path(__file__).with_name("killed.py")), where, str(directory)]
    done = subprocess.run([*killer, *given], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
