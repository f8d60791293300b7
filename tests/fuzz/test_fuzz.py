"""A minute of the fuzzer, and that it would see what it looks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlx_lora.errors import UserError

from . import __main__ as fuzz
from .__main__ import in_this_process, listing

REPO = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_a_minute_of_damaged_input():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seconds", "60", "--seed", os.environ.get("MLX_LORA_FUZZ_SEED", "5")],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["inputs"] > 20


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ValueError("x"), "traceback: ValueError"),
        (RecursionError("x"), "traceback: RecursionError"),
        (UserError("two\nlines"), "this is no sentence"),
        (UserError("x" * 5000), "this is no sentence"),
        (UserError("one"), ""),
        (FileNotFoundError(2, "no"), ""),
    ],
)
def test_what_a_command_raises_is_seen(monkeypatch, raised, seen):
    @click.command()
    def broken() -> None:
        raise raised

    monkeypatch.setattr(fuzz, "cli", broken)
    monkeypatch.setattr(fuzz, "too_large", lambda whose: [])
    found = in_this_process([], None)[2]
    assert [seen in one for one in found] == [True] * bool(seen)


def test_what_is_left_behind_is_seen(tmp_path):
    (tmp_path / "a").mkdir()
    before = listing(tmp_path)
    (tmp_path / "a" / ".x.tmp").write_text("")
    (tmp_path / "b").symlink_to("/nowhere")
    assert set(listing(tmp_path)) - set(before) == {"a/.x.tmp", "b"}
