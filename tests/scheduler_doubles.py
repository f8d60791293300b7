"""Doubles of the systems' schedulers and power tools: first on PATH, asked for answers, their calls recorded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "sleep" / "doubles"


class Doubles:
    """Programs that record their calls below ``place`` and answer as the real ones do, unless a test says otherwise."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "answers").mkdir(parents=True)

    def say(self, call: str, out: str = "", err: str = "", rc: int = 0, times: int = 10**6) -> None:
        """Answer calls that begin so; ``times`` of them."""
        number = len(list((self.place / "answers").iterdir()))
        answer = {"call": call, "out": out, "err": err, "rc": rc, "times": times}
        (self.place / "answers" / f"{number:03d}.json").write_text(json.dumps(answer))

    def calls(self, program: str = "") -> list[str]:
        file = self.place / "calls"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(program)]

    def forget(self) -> None:
        (self.place / "calls").unlink(missing_ok=True)


@pytest.fixture
def doubles(tmp_path, monkeypatch) -> Doubles:
    """The doubles first on PATH, and an empty home."""
    python = tmp_path / "python" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", os.pathsep.join([str(PROGRAMS), str(python.parent), os.environ["PATH"]]))
    monkeypatch.setenv("DOUBLES", str(tmp_path / "doubles"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home").mkdir()
    return Doubles(tmp_path / "doubles")
