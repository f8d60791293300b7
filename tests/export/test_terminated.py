"""SIGTERM ends an export as Ctrl-C does; after SIGKILL the next export sweeps what was left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

BASE = "builtin/tiny-lumen"


def started(tmp_path, *arguments):
    """An export that is stopped in the middle: its temporary file is there, and the process still works."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_lora", "export", "gguf", "--run", BASE, "--out", "out.gguf", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    limit = time.monotonic() + 120
    while not any(file.name.startswith(".out.") for file in tmp_path.iterdir()):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.002)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_nothing_is_left_behind(tmp_path, number, status):
    process = started(tmp_path, "--type", "q8_0")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "nothing is half-written" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_kill_leaves_is_swept_by_the_next(command, tmp_path):
    process = started(tmp_path, "--type", "q8_0")
    process.kill()
    process.communicate(timeout=60)
    assert any(str(process.pid) in file for file in os.listdir(tmp_path))
    done = command("export", "gguf", "--run", BASE, "--out", "out.gguf", "--type", "q8_0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["out.gguf"]
