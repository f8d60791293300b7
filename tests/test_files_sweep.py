"""Hidden temporary files: those of dead processes are swept by the next write of the same name."""

from __future__ import annotations

import os
import subprocess
import sys

from mlx_lora.export.verification import new_file
from mlx_lora.files import new_directory, write_atomic


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_swept(tmp_path):
    dead, alive = dead_process(), os.getppid()
    for process in (dead, alive):
        (tmp_path / f".run.json.{process}.tmp").write_text("half")
        (tmp_path / f".model.{process}.tmp.gguf").write_text("half")
        (tmp_path / f".model.{process}.tmp.gguf.f16").write_text("half")
        (tmp_path / f".run.{process}.tmp").mkdir()
        (tmp_path / f".run.{process}.tmp" / "weights").write_text("half")
    (tmp_path / f".other.json.{dead}.tmp").write_text("another's")
    write_atomic(tmp_path / "run.json", "{}")
    with new_directory(tmp_path / "run") as directory:
        (directory / "file").write_text("whole")
    with new_file(tmp_path / "model.gguf") as temporary:
        temporary.write_text("gone afterwards")
    kept = [f".run.json.{alive}.tmp", f".model.{alive}.tmp.gguf", f".model.{alive}.tmp.gguf.f16", f".run.{alive}.tmp"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [*kept, f".other.json.{dead}.tmp", "run", "run.json"]
    )


def test_an_earlier_process_of_the_same_number_is_no_obstacle(tmp_path):
    left = tmp_path / f".run.{os.getpid()}.tmp"
    left.mkdir()
    (left / "old").write_text("half")
    with new_directory(tmp_path / "run") as directory:
        (directory / "new").write_text("whole")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
